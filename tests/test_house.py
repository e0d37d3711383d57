"""The house keeps its order: folders import from those above them alone, nothing lies loose, tests mirror modules."""

import ast
from pathlib import Path

import pytest

import blob_pyro

ROOT = Path(blob_pyro.__file__).parent
ROOMS = [
    "data", "ops", "distributions", "models", "guides", "infer", "posteriors", "serialization", "propensity",
    "recommenders", "policies", "ope", "simulation", "diagnostics", "distributed", "experiments", "cli",
]  # fmt: skip
LOOSE = {"__init__.py", "__main__.py", "_version.py", "testing.py"}
# Conveniences of the objects that users hold, which import when they are called.
ANYWHERE = {"_version"}


def imports(tree: ast.Module):
    """Folders of this package that a module imports when it is imported itself; not those for type checkers."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "blob_pyro":
            parts = node.module.split(".")
            yield from ([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])


def test_nothing_lies_loose():
    assert {path.name for path in ROOT.glob("*.py")} == LOOSE
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room):
    above = {*ROOMS[: ROOMS.index(room) + 1], *ANYWHERE}
    if room in ("experiments", "cli"):  # they use the package as its users do
        above |= {"BLO", "BLOB", "EventLog"}
    for path in sorted((ROOT / room).rglob("*.py")):
        wrong = [name for name in imports(ast.parse(path.read_text())) if name not in above]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}, which lie below it"


def modules_of(tree: ast.Module):
    """Modules of this package that a module names anywhere, for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("blob_pyro."):
            yield node.module


def test_models_and_priors_have_no_circle():
    """Not even for a type checker: what a prior may see of a model is a Protocol."""
    needs = {}
    for path in (ROOT / "models").rglob("*.py"):
        if path.name != "__init__.py":
            module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            needs[module] = set(modules_of(ast.parse(path.read_text())))
    while free := [module for module, others in needs.items() if not others & set(needs)]:
        for module in free:
            del needs[module]
    assert not needs


def test_files_are_short():
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := p.read_text().count("\n")) > 500}
    assert not long


TESTS = Path(__file__).parent
# Folders of tests that follow no folder of the package, and what they hold instead.
CROSS_CUTTING = {
    "devices": "the same numbers on another device, for whatever is fitted or computed",
    "robustness": "what is around a fit, and data at the edge of what there is, for every part",
}
# Modules without a test file of their name: what they do shows in the whole that another file tests (a fit, a report, a
# saved folder, a command), and by themselves they only hold fields, are a Protocol, or put others together.
TESTED_WITH = {
    "infer/training/test_convergence": "infer/start",
    "infer/training/test_capture": "infer/training/gradients",
    "cli/test_demo": "cli/reproduce",
    "data/test_event_log": "data/columns data/schema",
    "data/test_scan": "data/id_set data/parquet_files data/parquet_table data/scanned_log data/view_store",
    "recommenders/test_blob": "recommenders/blob_fit",
    "recommenders/test_scanned": "infer/training/buffers models/streamed_batch",
    "recommenders/test_updates": "models/priors/now",
    "models/priors/test_covariates": "data/covariates",
    "distributed/test_scoring": "distributed/answering",
    "diagnostics/plots/test_parameters": "diagnostics/inference_data",
    "diagnostics/plots/test_gallery": "diagnostics/plots/reports",
    "diagnostics/test_psis": "diagnostics/summaries",
    "diagnostics/test_calibration": "diagnostics/calibration_report",
    "diagnostics/test_diagnose": "diagnostics/known_widths",
    "distributions/test_arrowhead_normal": "infer/laplace/arrowhead_precision",
    "distributions/test_block_arrowhead_normal": "infer/laplace/block_arrowhead_precision",
    "experiments/test_click_rates": "experiments/click_rates_report",
    "experiments/test_off_policy_coverage": "experiments/off_policy_coverage_report",
    "experiments/test_rounds": "experiments/agents experiments/round_files experiments/rounds_result",
    "guides/test_encoders": "guides/organic",
    "infer/bounds/test_bounds": "infer/bounds/bound",
    "infer/local_reparameterization/test_handler": "infer/elbo",
    "infer/laplace/test_fit": "infer/fit infer/fit_request infer/from_laplace infer/laplace/mode_search",
    "devices/test_bandit_fits": "infer/nuts",
    "recommenders/test_interest_model": "models/organic",
    "recommenders/test_joint_blob": "models/joint",
    "models/test_placed_terms": "models/priors/view",
    "models/test_bandit": "models/item_factors",
    "ope/test_evaluation": "ope/logged_rows ope/policy_evaluation",
    "ope/test_importance": "ope/estimate",
    "ope/test_intervals": "ope/bounded_terms",
    "serialization/test_folder": "recommenders/saving",
    "serialization/test_codec": "serialization/parts",
    "serialization/test_fixtures": "serialization/schema_2",
    "policies/test_top_two_thompson": "policies/posterior_draws",
    "policies/test_scored": "policies/base",
    "policies/slates/test_base": "policies/slates/of_distributions",
    "policies/test_registry": "policies/slates/posterior",
    "posteriors/test_click_logits": "posteriors/guide_posterior posteriors/logits_of_contexts",
    "recommenders/test_click_model": "posteriors/next_priors recommenders/click_model_parts",
    "propensity/test_argmax": "propensity/kernels/adaptive",
    "propensity/test_ranks": "propensity/kernels/ranks propensity/kernels/rank_meshes",
}  # fmt: skip


def public_modules() -> list[str]:
    """Modules by their path in the package; neither private ones nor those that only collect names."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.py") if not path.name.startswith("_"))
    return sorted(path.with_suffix("").as_posix() for path in paths)


def own_test(module: str) -> Path:
    return TESTS / Path(module).parent / f"test_{Path(module).name}.py"


def test_every_module_has_a_test_of_its_name_or_says_where():
    elsewhere = {module for modules in TESTED_WITH.values() for module in modules.split()}
    missing = [module for module in public_modules() if not own_test(module).exists() and module not in elsewhere]
    assert not missing, f"write {[str(own_test(m).relative_to(TESTS)) for m in missing]}, or add to TESTED_WITH"


@pytest.mark.parametrize("test", TESTED_WITH)
def test_what_is_tested_elsewhere_is(test):
    assert (TESTS / f"{test}.py").exists()
    for module in TESTED_WITH[test].split():
        assert module in public_modules(), f"{module} is no module: strike it out"
        assert not own_test(module).exists(), f"{module} has a test of its own: strike it out"


def test_folders_of_tests_are_those_of_the_package():
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    strange = [str(f) for f in sorted(folders) if not (ROOT / f).is_dir() and f.parts[0] not in CROSS_CUTTING]
    assert not strange, f"tests/{strange[0]} follows no folder of the package: move what is in it"
    assert all((TESTS / folder).is_dir() for folder in CROSS_CUTTING)


def test_every_folder_of_tests_is_a_package():
    """So that two files may have one name, as their modules do."""
    folders = {path.parent for path in TESTS.rglob("test_*.py")}
    assert not [str(f.relative_to(TESTS)) for f in sorted(folders) if not (f / "__init__.py").exists()]
