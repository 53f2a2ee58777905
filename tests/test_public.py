"""The public names, pinned: what changes here changes for users. See docs/api.md for the policy.

A name goes through ``sttm.deprecated`` before it leaves this list.
"""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import sttm

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "sttm": """STTM Attachment BudgetError ConfigError FrameEncoding IncompatibleTransformersError
        MergePlan Method MissingExtraError SavedCacheError StreamingSTTM SttmError UnknownNameError
        UnreducedVideoError UnsupportedModelError UntestedVersionWarning VideoChat VideoError
        VideoFeatures VideoGrid VideoReport attach get_method list_methods""",
    "sttm.attachment": "Attachment VideoReport attach",
    "sttm.budget": "check_keep read_keep token_budget written_keep",
    "sttm.chat": """Answer Conversation PrefilledVideo Source StoredVideo Timings VideoChat
        VideoStore VideoStream""",
    "sttm.checkpoints": "Conversion Needs Placement convert load plan_conversion",
    "sttm.distributed": "RayExecutor",
    "sttm.errors": """BudgetError ConfigError ContextWarning FailedVideoError
        IncompatibleTransformersError MissingExtraError SavedCacheError StoreWarning SttmError
        UnknownNameError UnreducedVideoError UnsupportedModelError UntestedVersionWarning
        VideoError WriteError""",
    "sttm.evaluation.compare": """Agreement Measured ModelAnswer Question Recommendation Row
        VideoComparison check_settings compare_video default_questions draw_comparison
        make_settings read_questions recommend summarize""",
    "sttm.evaluation.features": """ExtractPlan Extraction Failure FeatureFolder StoredVideo VideoJob
        extract_video ready verify""",
    "sttm.evaluation.tasks": "Item Metric Scored Share Task get_task list_tasks",
    "sttm.grid": "VideoGrid",
    "sttm.methods": """EVS STTM DecodePruning DyCoke DyCokeStage1 FastV FastVID FrameFusion
        HoliTom Identity Method MethodInfo OctreeMerge PruneVidMerge RandomTokens Signal
        SimpleCluster SingleGranularity ToMe TokenPruner UniformFrames VidCom2 VideoFeatures
        VisionZip get_method list_methods register""",
    "sttm.models": """Adapter Positions VideoLayout VideoSpan adapter_for list_models
        register_family""",
    "sttm.nano": """NANO_LAYER NANO_POSITIONS Clip Needle Question load make_clip make_questions
        make_scene scene_questions weights_path write_clip""",
    "sttm.plan": "MergePlan",
    "sttm.video": """Sampling Subtitle Video VideoWarning find_subtitles llava_indices nominal_times
        qwen_indices read_subtitles read_video smart_resize subtitles_at uniform_indices
        write_video""",
    "sttm.view": "Cells find_cells overlay page sheet",
}
# What examples and pages import beside that. It may change without notice.
PROVISIONAL = {
    "sttm.cli.loading",
    "sttm.evaluation.evaluate",
    "sttm.methods.base",
    "sttm.methods.registry",
    "sttm.models.families",
    "sttm.ops.selection",
}
SHOWN = [*ROOT.glob("README.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.py")]


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names(module: str) -> None:
    names = import_module(module).__all__
    assert sorted(names) == sorted(PUBLIC[module].split())
    assert not [name for name in names if not hasattr(import_module(module), name)]


def test_every_package_is_public_or_says_nothing_about_it() -> None:
    source = Path(sttm.__file__).parent
    declared = {
        ".".join(("sttm", *path.relative_to(source).parent.parts))
        for path in source.rglob("__init__.py")
        if "__all__" in path.read_text(encoding="utf-8")
    }
    assert declared - {"sttm.cli"} <= set(PUBLIC)


@pytest.mark.skipif(not SHOWN, reason="the documentation is not here")
def test_pages_and_examples_import_public_names() -> None:
    private = set()
    for path in SHOWN:
        text = path.read_text(encoding="utf-8")
        codes = (
            re.findall(r"```python\n(.*?)```", text, re.DOTALL) if path.suffix == ".md" else [text]
        )
        for node in (node for code in codes for node in ast.walk(ast.parse(code))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sttm":
                known = PUBLIC.get(node.module or "", "").split()
                for alias in node.names:
                    if alias.name not in known and f"{node.module}.{alias.name}" not in PUBLIC:
                        private.add(node.module)
    assert private <= PROVISIONAL
