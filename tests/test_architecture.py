import ast
import importlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem[0] != "_")
COMMANDS = [job for job in JOBS if job != "command"]
README = (ROOT / "README.md").read_text()


def modules(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules("pipeline"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_lives_there_and_init_files_import_nothing(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no docstring"
    if path.name == "__init__.py":
        assert len(tree.body) == 1, "an __init__ holds one docstring and nothing else"


def test_nothing_unpickles_evaluates_or_opens_a_shell():
    forbidden = {"pickle.load", "pickle.loads", "yaml.load", "eval", "exec", "os.system"}
    found = []
    for path in [*modules("pipeline"), *modules("jobs")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if name in forbidden or keywords.get("shell") == "True":
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
                if name.endswith("torch.load") and keywords.get("weights_only") != "True":
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert found == []


@pytest.mark.parametrize("job", COMMANDS)
def test_help_answers_within_a_second_and_imports_no_torch(job):
    code = f"""
import sys
sys.argv = ["{job}", "--help"]
import runpy
try:
    runpy.run_module("jobs.{job}", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
heavy = {{"torch", "ray", "mlflow", "open_clip", "img2dataset"}} & set(sys.modules)
assert not heavy, heavy
"""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout
    assert time.monotonic() - started < 5, "--help must not wait for imports"


def test_reading_a_run_file_imports_nothing_heavy():
    code = """
import sys
from pipeline.config import load_run
from pipeline.run_file import RunFile
load_run(RunFile, "jobs/configs/demo/run.yaml")
heavy = {"torch", "ray", "mlflow", "open_clip", "img2dataset", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def sh_blocks():
    return re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def test_the_readme_opens_with_the_two_set_up_commands():
    blocks = sh_blocks()
    head = README[: README.index(blocks[1])]
    assert len(re.findall(r"^#", head, re.MULTILINE)) == 1, "one title before the two commands"
    assert "-m jobs.run --config jobs/configs/demo/run.yaml" in blocks[0]
    assert blocks[1].rstrip().endswith("-m pytest")
    for block in blocks[:2]:
        assert "-m venv .venv" in block
        assert "--require-hashes" in block


def test_every_command_in_the_readme_names_an_existing_job_and_file():
    for name in re.findall(r"-m jobs\.(\w+)", README):
        assert name in COMMANDS, name
    for name in re.findall(r"(?:jobs/configs|infra)/[\w./-]+\.\w+", README):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"-m tests\.([\w.]+)", README):
        target = ROOT / "tests" / name.replace(".", "/")
        assert target.is_dir() or target.with_suffix(".py").is_file(), name


def test_every_failpoint_has_its_own_name():
    names = []
    for path in modules("pipeline"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("failpoint"):
                names.append(ast.literal_eval(node.args[0]))
    assert len(names) == len(set(names)) > 5


def test_the_public_python_surface_is_what_the_readme_says():
    block = re.search(r"### Python\n.*?```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    imports = [n for n in ast.parse(block.group(1)).body if isinstance(n, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    assert names == {
        "pipeline.config.load_run",
        "pipeline.generation.unclip.UnCLIP",
        "pipeline.run_file.RunFile",
        "pipeline.shards.reader.open_dataset",
    }
    for name in names:
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        assert found.__doc__, f"{name} has no docstring"
