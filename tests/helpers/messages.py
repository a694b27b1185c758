"""What a command has printed to stderr."""


def says(message, *texts):
    """The one error in what was printed has all the texts, and is short."""
    *_, error = parts = ("\n" + message).split("\nerror: ")
    assert len(parts) == 2
    for text in texts:
        assert str(text) in error
    assert len(error.splitlines()) < 12
