"""Who imports whom: lower modules know nothing of higher ones, and what knows arrays knows no Tensor.

The imports are read from the source, also those inside functions and those for type checkers.
"""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tinyunet

PACKAGE = Path(tinyunet.__file__).parent

# From the bottom to the top. A module imports from lower layers and from its own room, nothing else.
LAYERS = [
    {"errors", "startup"},
    {"backend", "command_line"},
    {"autograd", "data"},
    {"ops", "metrics", "sampling"},
    {"nn"},
    {"models"},
    {"prediction"},
    {"training"},
    {"diagnosis", "reporting"},
    {"exchange"},
    {"train", "predict", "evaluate", "doctor", "report", "watch", "compare", "compile", "export"},
    {"__main__", "napari"},
]
# Neither of these knows the other: the rooms that work on arrays, and those that work on tensors.
ARRAYS = {"data", "sampling", "metrics"}
TENSORS = {"autograd", "ops", "nn"}

# Slow to import, or useless to a program that imports the package: for the commands and reporting only.
FOR_COMMANDS = {"matplotlib", "tqdm", "tyro", "jinja2"}
COMMANDS_AND_REPORTING = {
    "train",
    "predict",
    "evaluate",
    "doctor",
    "report",
    "watch",
    "compare",
    "compile",
    "export",
    "reporting",
}

# Compared with in the tests and the benchmarks; the engine is written from scratch.
FOREIGN = {"torch", "tensorflow", "jax", "keras", "cv2", "elasticdeform", "monai"}

# The plugin's windows, which need napari and Qt; its other modules run without them.
WINDOWS = {"napari.panel", "napari.segment_widget", "napari.train_widget"}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(path):
    """Full names of all that is imported: `from tinyunet import ops` is tinyunet.ops."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if name.removeprefix("tinyunet.") in MODULES}
            found |= modules or {node.module}
    return found


def own_imports(name):
    """What the module imports of this package, without "tinyunet."."""
    names = imported_modules(MODULES[name])
    return {full.removeprefix("tinyunet.") for full in names if full.startswith("tinyunet.")}


def layer(name):
    top = name.split(".")[0]
    return next((i for i, modules in enumerate(LAYERS) if top in modules), None)


def allowed(importer, imported):
    """Whether a module may import another."""
    top, other = importer.split(".")[0], imported.split(".")[0]
    if top == other:
        return True
    if (
        layer(imported) is None
        or (top in ARRAYS and other in TENSORS)
        or (top in TENSORS and other in ARRAYS)
    ):
        return False
    return layer(imported) < layer(importer)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__init__"])
def test_imports_go_down_only(name):
    assert layer(name) is not None, f"{name}: give it a place in LAYERS"
    wrong = [imported for imported in own_imports(name) if not allowed(name, imported)]
    assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("autograd", "ops.conv2d"),
        ("backend", "autograd"),
        ("ops.conv2d", "nn"),
        ("nn", "models.unet"),
        ("nn.sgd", "models"),
        ("prediction.tiling", "training.checkpoint"),
        ("training.trainer", "train"),
        ("metrics.pixels", "ops"),
        ("ops.conv2d", "data"),
        ("sampling.augment", "autograd"),
        ("predict", "train"),
        ("compare", "train"),
        ("reporting.page", "diagnosis"),
        ("training.checkpoint", "exchange.torch_names"),
        ("train", "napari.training"),
    ],
)
def test_the_rule_refuses(importer, imported):
    assert not allowed(importer, imported)


def test_no_module_imports_itself_in_a_circle():
    """Packages' __init__ files, which only pass names on, are left out."""
    files = {name for name, path in MODULES.items() if path.name != "__init__.py"}
    TopologicalSorter({name: own_imports(name) & files for name in files}).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_written_from_scratch(name):
    roots = {full.split(".")[0] for full in imported_modules(MODULES[name])}
    assert not roots & FOREIGN


@pytest.mark.parametrize("name", MODULES)
def test_what_commands_need_stays_with_them(name):
    roots = {full.split(".")[0] for full in imported_modules(MODULES[name])}
    assert name.split(".")[0] in COMMANDS_AND_REPORTING or not roots & FOR_COMMANDS


@pytest.mark.parametrize("name", MODULES)
def test_only_windows_need_napari(name):
    roots = {full.split(".")[0] for full in imported_modules(MODULES[name])}
    assert name in WINDOWS or not roots & {"napari", "magicgui", "qtpy"}
    assert name in WINDOWS or not WINDOWS & set(own_imports(name))


def test_importing_the_package_imports_no_plots():
    """Matplotlib takes long to import, and a script that trains may never plot."""
    assert "tinyunet.reporting.plots" not in {f"tinyunet.{n}" for n in own_imports("__init__")}
    assert sys.modules["tinyunet"].__version__
