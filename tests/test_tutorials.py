"""Each chapter runs as it is and with the worked answers in it, and each check refuses known wrong answers.

Chapters run as copies in a folder of their own: a reader's answers, figures and progress stay as they are.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from forked_scripts import ScriptServer

from tinyunet.data import synthetic_cells

TOP = Path(__file__).parents[1]
TUTORIALS = TOP / "tutorials"
CHAPTERS = sorted(path.stem for path in TUTORIALS.glob("[0-9][0-9]_*.py"))
LONGEST = 60  # seconds for a reader on two quiet cores; a test allows for a busy machine
ENVIRONMENT = {
    "MPLBACKEND": "agg",
    "PYTHONPATH": str(TUTORIALS.parent),
    # Threads that spin while they wait make a small training crawl on a machine with other work.
    "OMP_WAIT_POLICY": "passive",
}

sys.path.insert(0, str(TUTORIALS))
import check  # noqa: E402
import lesson  # noqa: E402
from numba import njit, prange  # noqa: E402
from race import find_race  # noqa: E402

MISSING = "zero_grad is missing, so that each step adds its gradients to the older ones"
EXERCISES = {name: lesson.exercises(TUTORIALS / f"{name}.py") for name in CHAPTERS}
ALL_EXERCISES = [(chapter, *exercise) for chapter in CHAPTERS for exercise in EXERCISES[chapter]]


# What a chapter compares for the same time is compared for a shorter one; the site runs it in full.
SHORTER = {"15_fcn_sliding_window": ("SECONDS = 5\n", "SECONDS = 1\n")}


# The imports of each chapter would take 1.5 s.
SERVER = ScriptServer(["matplotlib.pyplot", "tinyunet"], ENVIRONMENT)


def copy_chapter(folder: Path, chapter: str, source: str | None = None) -> Path:
    """Copy a chapter, or put another text in its place, and copy what it imports; return the copy's path."""
    for path in TUTORIALS.glob("*.py"):
        shutil.copy(path, folder)
    shutil.copytree(TUTORIALS / "solutions", folder / "solutions")
    script = folder / f"{chapter}.py"
    text = script.read_text(encoding="utf-8") if source is None else source
    if chapter in SHORTER:
        long, short = SHORTER[chapter]
        assert text.count(long) == 1
        text = text.replace(long, short)
    script.write_text(text, encoding="utf-8")
    return script


def run_chapter(folder: Path, chapter: str, source: str | None = None) -> str:
    """Run a copy of a chapter, or another text in its place, and return what it prints."""
    status, printed, errors = SERVER.run(copy_chapter(folder, chapter, source))
    assert status == 0, printed[-2000:] + errors[-4000:]
    return " ".join(printed.split())  # messages are broken into lines


def solved_source(chapter: str, source: str | None = None) -> str:
    """Return the chapter, or a file of answers to it, with the worked answers instead of its stubs."""
    if source is None:
        source = (TUTORIALS / f"{chapter}.py").read_text(encoding="utf-8")
    lines = source.splitlines()
    answers = (TUTORIALS / "solutions" / f"{chapter}.py").read_text(encoding="utf-8").splitlines()
    bodies = {
        node.name: answers[node.body[0].lineno - 1 : node.end_lineno]
        for node in ast.parse("\n".join(answers)).body
        if isinstance(node, ast.FunctionDef)
    }
    stubs = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name in dict(map(reversed, EXERCISES[chapter]))
    ]
    for node in reversed(stubs):
        first = node.body[1 if ast.get_docstring(node) else 0].lineno - 1
        lines[first : node.end_lineno] = bodies[node.name]
    return "\n".join(lines)


@pytest.mark.timeout(5 * LONGEST)
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_runs_unsolved(chapter, tmp_path):
    printed = run_chapter(tmp_path, chapter)
    for number, name in EXERCISES[chapter]:
        assert f"Exercise {number}, {name}: open" in printed
    assert len(list((tmp_path / "figures").glob("*.png"))) >= 1
    source = (TUTORIALS / f"{chapter}.py").read_text(encoding="utf-8")
    for name in re.findall(r'animate\("([\w-]+)"', source):
        page = (tmp_path / "figures" / f"{name}.html").read_text(encoding="utf-8")
        assert page.count("data:image/png") >= 6  # frames, in the page itself
        assert not re.search(r'(?:src|href)="https?:', page)
        buttons = re.findall(r"<button[^>]*>(.*?)</button>", page, re.DOTALL)
        assert len(buttons) == 9
        assert all(re.search(r"[^\s<>]", re.sub("<[^>]*>", "", button)) for button in buttons)


@pytest.mark.timeout(5 * LONGEST)
@pytest.mark.parametrize("chapter", CHAPTERS[:-1])
def test_chapter_runs_solved(chapter, tmp_path):
    printed = run_chapter(tmp_path, chapter, solved_source(chapter))
    for number, name in EXERCISES[chapter]:
        assert re.search(rf"Exercise {number}, {name}: solved in \d+ line\(s\)\.", printed)


@pytest.mark.parametrize(("chapter", "number", "name"), ALL_EXERCISES)
def test_check_takes_the_answer_and_refuses_wrong_ones(chapter, number, name):
    solutions = lesson.load_solutions(chapter[:2])
    assert lesson.check(solutions, name, getattr(solutions, name))
    assert not lesson.check(solutions, name, lambda *arguments: ...)
    wrong = getattr(solutions, f"wrong_{name}")
    assert len(wrong) >= 2
    for why, function in wrong.items():
        with pytest.raises(lesson.WrongAnswer) as refused:
            assert not lesson.check(solutions, name, function), f"{number} takes a wrong answer: {why}"
        message = str(refused.value)
        if not hasattr(solutions, f"check_{name}") and "has changed" not in message:
            assert f"The same result comes from this mistake: {why}." in message  # and not from another one


def test_a_mistake_that_agrees_in_one_case_only_does_not_go_first():
    exercise = SimpleNamespace(
        double=lambda x: 2 * x,
        cases_double=lambda rng: [(1.0,), (3.0,)],
        wrong_double={"the cube": lambda x: x**3, "not doubled": lambda x: x, "an error": lambda x: x.real()},
    )
    for answer, message in [
        (lambda x: x, "The same result comes from this mistake: not doubled."),
        (lambda x: x**2, "The same result, but not in all cases, comes from this mistake: the cube."),
        (lambda x: x.real(), "The same result comes from this mistake: an error."),
        (lambda x: x + 5, "6 where 2 is expected, for x = 1"),
    ]:
        with pytest.raises(lesson.WrongAnswer, match=f"{re.escape(message)}$"):
            lesson.check(exercise, "double", answer)


def test_infinities_and_nans_of_a_mistake_are_recognised():
    solutions = lesson.load_solutions("10")
    with pytest.raises(lesson.WrongAnswer, match="mistake: the logarithm of a probability that is 0"):
        lesson.check(solutions, "log_softmax", lambda logits: np.log(np.exp(solutions.log_softmax(logits))))


@pytest.mark.parametrize("chapter", ["06", "07"])
def test_par_is_what_the_worked_answers_take(chapter):
    solutions = lesson.load_solutions(chapter)
    for name, puzzle in solutions.PUZZLES.items():
        score = puzzle.score(getattr(solutions, name))
        found = [int(number) for number in re.findall(r"(\d+) (?:global|shared)", score)]
        assert found == [number for number in puzzle.par if number], f"{name}: {score}"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_is_numbered_and_listed(chapter):
    text = (TUTORIALS / f"{chapter}.py").read_text(encoding="utf-8")
    title = ast.get_docstring(ast.parse(text)).splitlines()[0]
    assert title.startswith(f"{chapter[:2]}. ")
    numbers = [number for number, _ in EXERCISES[chapter]]
    assert numbers == [f"{chapter[:2]}.{i}" for i in range(1, len(numbers) + 1)] != []
    assert f"[{title}]({chapter}.py)" in (TUTORIALS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*TUTORIALS.glob("*.*"), *TUTORIALS.glob("solutions/*.py")], ids=str)
def test_paths_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"\b(?:tinyunet|kernels|tutorials|tests|docs)/[\w/.*]*", text)
    assert [name for name in named if not any(TOP.glob(name.rstrip("/.")))] == []
    chapters = re.findall(r"\b\d\d_\w+\.py", text)
    assert [name for name in chapters if not (TUTORIALS / name).exists()] == []


@pytest.mark.parametrize(
    ("chapter", "name", "answer"),
    [
        ("03", "corner_edge_middle", lambda: np.array([1, 3, 9])),
        ("15", "pool_at_offsets", lambda x: np.stack(lesson.load_solutions("15").pool_at_offsets(x))),
    ],
)
def test_an_array_is_accepted_where_several_values_are_expected(chapter, name, answer):
    assert lesson.check(lesson.load_solutions(chapter), name, answer)


@pytest.mark.parametrize(
    ("chapter", "name", "mistake", "message"),
    [
        ("01", "multiply_backward", "the inputs exchanged", "in grad_a, for grad_y = 0.12573, a = -0.132105"),
        ("03", "backward_weight_and_bias", "the window flipped", "in grad_weight, for x = array"),
        ("13", "train_step", MISSING, "the loss of step 2"),
    ],
)
def test_message_names_values_arguments_and_known_mistakes(chapter, name, mistake, message):
    solutions = lesson.load_solutions(chapter)
    with pytest.raises(lesson.WrongAnswer) as wrong:
        lesson.check(solutions, name, getattr(solutions, f"wrong_{name}")[mistake])
    assert message in str(wrong.value)
    assert f"mistake: {mistake}." in str(wrong.value)


def test_arguments_that_are_changed_in_place_are_named():
    solutions = lesson.load_solutions("12")
    with pytest.raises(lesson.WrongAnswer, match="the array weight has changed"):
        lesson.check(solutions, "sgd_step", solutions.wrong_sgd_step["arrays changed in place"])


# The checker itself


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.array([[1.0, 2.0], [3.0, 5.0]]), r"1 of 4 .*\(1, 1\): 5 where 4"),
        (np.array([1.0, 2.0]), r"\(2,\) where \(2, 2\)"),
        (np.full((2, 2), np.nan), r"4 of 4"),
    ],
)
def test_first_wrong_element_is_shown(found, message):
    with pytest.raises(lesson.WrongAnswer, match=f"(?s){message}"):
        lesson.compare(found, np.array([[1.0, 2.0], [3.0, 4.0]]), "here")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([(9, 64), (7, 32)], r"^\(7, 32\) where \(7, 64\) is expected, in value 1, here$"),
        (
            [(7, 64)],
            r"(?s)^1 value.* where 2 are expected.*\(7, 64\) where \(9, 64\) is expected, in value 0$",
        ),
        ([(9, 64), (7, 64), (7, 2)], r"^3 value.* where 2 are expected, here$"),
        ((9, 64), r"9 where \(9, 64\) is expected, in value 0"),
        (9, r"^2 values are expected in a tuple or list, not 9, here$"),
    ],
)
def test_first_wrong_entry_of_a_list_is_shown_as_a_whole(found, message):
    expected = [(9, 64), (7, 64)]
    lesson.compare([[9, np.int64(64)], (7, 64)], expected, "here")
    with pytest.raises(lesson.WrongAnswer, match=message):
        lesson.compare(found, expected, "here")


def test_wrong_answer_stops_the_chapter_without_a_traceback(tmp_path):
    source = (TUTORIALS / "01_autograd.py").read_text(encoding="utf-8")
    wrong = source.replace("return ...", "return grad_y * a, grad_y * b", 1)
    assert wrong != source
    script = copy_chapter(tmp_path, "01_autograd", wrong)
    command = [sys.executable, script.name]  # as a reader runs it
    result = subprocess.run(
        command, cwd=tmp_path, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "Exercise 01.1, multiply_backward: -0.0166" in result.stderr
    assert "Traceback" not in result.stderr


def test_error_in_an_answer_shows_its_line():
    def answer(x):
        return x.no_such_method()

    with pytest.raises(
        lesson.WrongAnswer, match=r"(?s)AttributeError.*return x.no_such_method\(\).*x = array \(3,\)"
    ):
        lesson.attempt(answer, np.zeros(3))


def test_error_in_a_library_shows_the_line_that_called_it():
    def answer(x):
        return np.einsum("ij->ji", x)  # which is written in Python, too

    with pytest.raises(lesson.WrongAnswer, match=r'(?s)ValueError.*in line \d+: return np.einsum\("ij->ji"'):
        lesson.attempt(answer, np.zeros(3))


def test_forgotten_return_is_reported(tmp_path):
    source = (TUTORIALS / "01_autograd.py").read_text(encoding="utf-8")
    printed = run_chapter(tmp_path, "01_autograd", source.replace("return ...", "y = grad_y * b", 1))
    assert "Exercise 01.1, multiply_backward: open, because it returns nothing" in printed
    assert "Exercise 01.2, newest_first: open. The worked answer is used." in printed


def a_kernel():
    return """
int i = threadIdx.x;
y[i] = 2 * x[i];
"""


def test_the_quotes_around_a_kernel_are_no_lines():
    assert lesson.count_lines(a_kernel) == 2


def test_whole_numbers_of_numpy_are_shown_as_numbers():
    with pytest.raises(lesson.WrongAnswer, match=r"^1 where 2 is expected"):
        lesson.compare(np.int64(1), 2, "here")


def test_numbers_are_described_in_short():
    described = lesson.describe((np.float64(1 / 3), 0.5, 7, np.zeros((2, 3))), "abcd")
    assert described == "a = 0.333333, b = 0.5, c = 7, d = array (2, 3)"
    assert lesson.describe((np.exp, lambda x: x), "fg") == "f = exp, g = a function"


# The search for races


def test_no_race_where_passes_keep_apart():
    assert find_race(parts_of_a_sum, np.arange(6.0), np.zeros(3), 2) is None
    assert find_race(njit(parts_of_a_sum), np.arange(6.0), np.zeros(3), 2) is None


def parts_of_a_sum(values, parts, size):
    copies = np.zeros(len(parts))  # made here, watched too
    for part in prange(len(parts)):
        for i in prange(part * size, (part + 1) * size):  # inside another loop: on one core
            copies[part] += values[i]
        view = parts[part : part + 1]
        view += copies[part]
    parts += parts.sum()  # after the loop: all passes are done


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y[0] = k", "pass 1 of the loop writes an element of y that pass 0 wrote"),
        ("y[k % 2] += 1", "pass 2 of the loop reads an element of y that pass 0 wrote"),
        ("y[k] = y[0]", "pass 1 of the loop reads an element of y that pass 0 wrote"),
        ("y[k] = y[k + 1]", "pass 1 of the loop writes an element of y that pass 0 read"),
        ("if k < 2: s = y[3]\n  else: y[k + 1] = 1", "writes an element of y that more than one other pass"),
        ("y[1:3] = 0", "pass 1 of the loop writes an element of y that pass 0 wrote"),
        ("y += 1", "pass 1 of the loop reads an element of y that pass 0 wrote"),
        ("np.add(y, 1, out=y)", "pass 1 of the loop reads an element of y that pass 0 wrote"),
        ("z[0] += k", "an element of an array made here"),
    ],
)
def test_race_is_found(body, message):
    names = {"np": np, "prange": prange}
    exec(f"def f(y):\n z = np.zeros(1)\n for k in prange(3):\n  {body}", names)
    assert message in find_race(names["f"], np.arange(5.0))


def test_loop_on_one_core_is_reported():
    assert "no prange loop" in find_race(lambda y: y.sum(), np.zeros(3))


# The command that checks


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Give the reader's files a folder of their own, and return that of the answers."""
    monkeypatch.setattr(lesson, "ANSWERS", tmp_path / "answers")
    monkeypatch.setattr(lesson, "RECORD", tmp_path / "record.json")
    return lesson.ANSWERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_answers_in_a_file_of_their_own_are_checked(chapter, answers, capsys):
    assert check.main([chapter[:2], "--start"]) == 0
    path = answers / f"{chapter[:2]}.py"
    assert check.main([chapter[:2]]) == 1
    assert capsys.readouterr().out.count(": open.\n") == len(EXERCISES[chapter])
    path.write_text(solved_source(chapter, path.read_text(encoding="utf-8")), encoding="utf-8")
    assert check.main([chapter[:2]]) == 0
    assert capsys.readouterr().out.count(": solved in ") == len(EXERCISES[chapter])


@pytest.mark.parametrize(
    ("number", "body", "message"),
    [
        ("01.1", "return grad_y * a, grad_y * b", "mistake: the inputs exchanged."),
        (
            "05.1",
            "s = g[0] + g[2]; a, b = (d[0] - d[2]) * g[0], (d[1] - d[3]) * g[2]; "
            "p, q = (d[1] + d[2]) * (s + g[1]), (d[2] - d[1]) * (s - g[1]); return a + p + q, p - q - b",
            "mistake: the halves forgotten.",
        ),
        ("06.1", "return 'y[threadIdx.x] = 2 * x[threadIdx.x];'", "out of bounds"),
        (
            "06.2",
            "return 'int j = blockIdx.x * 16 + threadIdx.x, i = blockIdx.y * 8 + threadIdx.y; '"
            "'if (i < height && j < width) y[i * width + j] = x[i * width + j] - mean[j % height];'",
            "mistake: the mean of the column.",
        ),
        (
            "06.3",
            "return 'int i = 256 * blockIdx.x + 4 * threadIdx.x; '"
            "'for (int k = 0; k < 4; k++) y[i + k] = 2 * x[i + k];'",
            "takes 128 global wavefronts where 32 are enough",
        ),
        (
            "06.5",
            "return '__shared__ float tile[64]; int t = threadIdx.x; tile[t] = x[t]; __syncthreads(); '"
            "'for (int s = 0; s < steps; s++) { float m = (tile[(t - 1) % 64] + tile[(t + 1) % 64]) / 2; '"
            "'__syncthreads(); tile[t] = m; __syncthreads(); } y[t] = tile[t];'",
            "thread 0 uses index -1 outside of an array",
        ),
        (
            "03.7",
            "h, w = x.shape[1:3]; k = len(weight); a = np.fft.fft2(x, axes=(1, 2)); "
            "b = np.fft.fft2(weight, s=(h, w), axes=(0, 1)); s = np.einsum('nijc,ijcf->nijf', a, b); "
            "return np.fft.ifft2(s, axes=(1, 2)).real[:, : h - k + 1, : w - k + 1] + bias",
            "mistake: the filter's transform is not conjugated",
        ),
        (
            "08.8",
            "v = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]; "
            "p, q = np.divmod(v.reshape(*v.shape[:4], 9).argmax(-1), 3); n, i, j, c = np.indices(p.shape); "
            "g = np.zeros(x.shape); g[n, 2 * i + p, 2 * j + q, c] += grad_y; return g",
            "np.add.at adds all",
        ),
        ("09.4", "return 2 / (size * size * channels)", "mistake: the variance."),
        (
            "09.6",
            "a = np.maximum(skip @ w_skip + up @ w_up, 0); g = 1 / (1 + np.exp(-a @ w_gate)); "
            "s = (grad_y * skip).sum(3, keepdims=True) * g * (1 - g); h = s @ w_gate.T; "
            "m = lambda x, y: np.einsum('nijc,nijk->ck', x, y); "
            "return grad_y * g + h @ w_skip.T, h @ w_up.T, m(skip, h), m(up, h), m(a, s)",
            "mistake: all comes back through the ReLU",
        ),
        ("12.1", "return weight + lr * (momentum * velocity + grad), velocity", "in weight, for weight = "),
        ("14.1", "return k % size", "mistake: the image repeated."),
        ("14.1", "return k.no_such_method()", "in line 1"),
        ("14.1", "k %", "14.py, line"),
        (
            "16.2",
            "a = 0, 1, 2; d = np.sqrt(x.var(a) + 1e-5); n = (x - x.mean(a)) / d; "
            "return scale / d * grad_y, (grad_y * n).sum(a), grad_y.sum(a)",
            "mistake: mean and variance are taken for constants",
        ),
        (
            "16.4",
            "f = scale / np.sqrt(variance + 1e-5); return weight * f, shift",
            "folded without the mean.",
        ),
    ],
)
def test_wrong_answers_in_a_file_are_explained(number, body, message, answers, capsys):
    check.main([number, "--start"])
    path = answers / f"{number[:2]}.py"
    name = dict(exercise for _, *exercise in ALL_EXERCISES)[number]
    before, after = path.read_text(encoding="utf-8").split(f"def {name}")
    path.write_text(f"{before}def {name}{after.replace('return ...', body, 1)}", encoding="utf-8")
    capsys.readouterr()
    assert check.main([number]) == 1
    assert message in capsys.readouterr().out


def test_start_keeps_what_is_written_and_adds_what_is_missing(answers):
    answers.mkdir()
    path = answers / "03.py"
    path.write_text("def corner_edge_middle():\n    return 1, 3, 9  # mine\n", encoding="utf-8")
    assert check.main(["03", "--start"]) == check.main(["03", "--start"]) == 0
    written = path.read_text(encoding="utf-8")
    assert written.startswith("def corner_edge_middle():\n    return 1, 3, 9  # mine\n")
    assert [written.count(f"def {name}(") for _, name in EXERCISES["03_conv2d"]] == 7 * [1]
    assert check.main(["03.4"]) == 0


def test_hints_come_one_by_one(answers, capsys):
    for shown in (1, 2, 2):
        assert check.main(["03.2", "--hint"]) == 0
        assert f"Hint {shown} of 2" in capsys.readouterr().out
    assert check.main(["03.3", "--hint"]) == 0
    assert "Hint 1 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(("chapter", "number", "name"), ALL_EXERCISES)
def test_each_exercise_has_hints(chapter, number, name):
    assert len(getattr(lesson.load_solutions(chapter[:2]), f"hints_{name}")) >= 2


@pytest.mark.parametrize(
    "arguments", [["03.9"], ["99"], ["03", "--hint"], ["03.1", "--hint", "--start"], ["--hint"]]
)
def test_usage_is_status_2(arguments, answers):
    with pytest.raises(SystemExit) as stopped:
        check.main(arguments)
    assert stopped.value.code == 2


def test_answers_in_the_chapter_are_checked_without_running_it(answers, tmp_path, monkeypatch):
    for path in TUTORIALS.glob("[0-9]*.py"):
        shutil.copy(path, tmp_path)
    shutil.copytree(TUTORIALS / "solutions", tmp_path / "solutions")
    monkeypatch.setattr(lesson, "FOLDER", tmp_path)
    chapter = tmp_path / "08_max_pool2d_conv_transpose2d.py"
    source = solved_source(chapter.stem).replace(
        "rng = np.random", "raise RuntimeError  # run\nrng = np.random", 1
    )
    assert "RuntimeError" in source
    chapter.write_text(source, encoding="utf-8")
    assert check.main(["08"]) == 0
    chapter.write_text(source.replace("weight[p, q].T", "weight[p, q]"), encoding="utf-8")
    assert check.main(["08.4"]) == 1
    chapter.write_text(source, encoding="utf-8")
    assert check.main(["08", "--start"]) == 0  # takes the answers along
    shutil.copy(TUTORIALS / chapter.name, chapter)
    assert check.main(["08"]) == 0


def test_chapter_uses_the_answers_of_the_file(answers, tmp_path):
    check.main(["01", "--start"])
    path = answers / "01.py"
    path.write_text(path.read_text().replace("return ...", "return grad_y * b, grad_y * a", 1))
    printed = run_chapter(tmp_path, "01_autograd")
    assert "Exercise 01.1, multiply_backward: solved in 1 line(s)." in printed
    assert "Exercise 01.2, newest_first: open." in printed


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_recall_asks_five_questions_and_sets_a_task(chapter, answers, capsys):
    assert check.main([chapter[:2], "--recall"]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^(\d)\. ", printed, re.M) == list("12345")
    assert printed.count("A harder task: ") == 1
    assert not re.search("</?(code|em|details)|&lt;", printed)


def test_questions_name_exercises_and_chapters_that_exist():
    text = (TUTORIALS / "questions.md").read_text(encoding="utf-8")
    titles = [
        ast.get_docstring(ast.parse(p.read_text())).splitlines()[0] for p in TUTORIALS.glob("[0-9]*.py")
    ]
    assert re.findall("^## (.*)", text, re.M) == sorted(titles)


def test_the_reader_writes_six_hundred_lines():
    answers = [getattr(lesson.load_solutions(chapter[:2]), name) for chapter, _, name in ALL_EXERCISES]
    assert sum(map(lesson.count_lines, answers)) >= 600


def test_names_of_exercises_are_unique():
    names = [name for _, _, name in ALL_EXERCISES]
    assert len(names) == len(set(names))


def test_own_answers_go_before_worked_ones(answers):
    check.main(["03", "--start"])
    path = answers / "03.py"
    before, after = path.read_text().split("def corner_edge_middle")
    start, end = after.split("return ...", 1)
    start = f"{before}def corner_edge_middle{start}"
    path.write_text(f"{start}return 1, 3, 9{end}")
    own = lesson.Own()
    assert own.corner_edge_middle() == (1, 3, 9)
    assert own.backward_input is lesson.load_solutions("03").backward_input
    assert (own.used, own.yours) == (["03.4", "03.3"], ["03.4"])
    path.write_text(f"{start}return 9, 9, 9{end}")
    with pytest.raises(lesson.WrongAnswer, match=r"03\.4"):
        lesson.Own().corner_edge_middle()


@pytest.mark.timeout(5 * LONGEST)
def test_the_last_chapter_is_made_of_the_answers_of_all(answers, tmp_path):
    for chapter in CHAPTERS:
        check.main([chapter[:2], "--start"])
        path = answers / f"{chapter[:2]}.py"
        path.write_text(solved_source(chapter, path.read_text(encoding="utf-8")), encoding="utf-8")
    image = tmp_path / "mine.tif"
    tifffile.imwrite(image, synthetic_cells(1, 130, seed=3).images[0][..., 0])
    source = (TUTORIALS / f"{CHAPTERS[-1]}.py").read_text(encoding="utf-8")
    printed = run_chapter(
        tmp_path,
        CHAPTERS[-1],
        source.replace('MY_IMAGE, ZOOM = "", 1.0', f"MY_IMAGE, ZOOM = {str(image)!r}, 0.5"),
    )
    assert "36 of 36 functions are yours worked answers: none" in printed
    assert (tmp_path / "figures" / "17-your-image.png").exists()


def test_a_damaged_record_is_begun_anew_and_none_is_seen_half_written(answers, monkeypatch):
    lesson.RECORD.write_text('{"03.1": {"sta')  # as a write that was interrupted leaves it
    assert lesson.recorded() == {}
    lesson.record("03.1", state="solved")
    replaced = []
    monkeypatch.setattr(os, "replace", lambda *paths: replaced.append((lesson.recorded(), *paths)))
    lesson.record("03.2", state="wrong")
    ((seen, draft, _),) = replaced
    assert seen == {"03.1": {"state": "solved"}}
    assert json.loads(draft.read_text()) == seen | {"03.2": {"state": "wrong"}}


def test_progress_shows_what_is_next(answers, capsys):
    check.main(["00", "--start"])
    path = answers / "00.py"
    path.write_text(solved_source("00_first_run", path.read_text()))
    assert check.main(["00"]) == 0
    capsys.readouterr()
    assert check.main([]) == check.main(["progress"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^\*\*\* +00\. ", printed, re.M)
    assert f"3 of {len(ALL_EXERCISES)} solved" in printed
    assert "Next: 01.1, multiply_backward" in printed


def test_the_command_loads_neither_the_engine_nor_matplotlib():
    script = (
        "import sys, tutorials.check as check; check.main(['progress']);"
        "assert not {'matplotlib', 'tinyunet', 'numba', 'scipy'} & sys.modules.keys()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=TOP, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "00. First run" in result.stdout


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_new_file_of_answers_defines_each_name_once(chapter, answers):
    check.main([chapter[:2], "--start"])
    body = ast.parse((answers / f"{chapter[:2]}.py").read_text(encoding="utf-8")).body
    names = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    assert len(names) == len(set(names))


def test_an_array_in_a_list_that_is_changed_is_noticed():
    def clip(grads, longest):
        for grad in grads:
            grad *= 0.5
        return grads

    with pytest.raises(lesson.WrongAnswer):
        lesson.check(lesson.load_solutions("12"), "clip", clip)
    assert not lesson.unchanged([np.zeros(2)], [np.ones(2)])
    assert lesson.unchanged({"a": (np.zeros(2), 3)}, {"a": (np.zeros(2), 3)})
