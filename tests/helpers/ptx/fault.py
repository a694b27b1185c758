"""What is wrong with a kernel."""


class Fault(Exception):
    """A kernel does what PTX does not define, or what the interpreter does not know."""
