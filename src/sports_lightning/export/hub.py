"""Upload of an export to the Hugging Face Hub, in the layout that timm opens as `hf-hub:OWNER/NAME`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from sports_lightning.errors import UserError
from sports_lightning.reports.decorations import short_reason
from sports_lightning.runs.layout import MODEL_CARD


def check_push(name: str) -> None:
    """Check that an upload to the repository `name` can be tried, before the work of an export.

    Raises:
        UserError: not OWNER/NAME, no login, or the Hub is switched off.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"push={name}: {' '.join(str(error).split())}") from error
    if "/" not in name:
        raise UserError(f"push={name} has no owner: write push=OWNER/{name}")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"push={name}: HF_HUB_OFFLINE is set: unset it, or leave push out")
    if not get_token():
        raise UserError(f"push={name} needs a login: run hf auth login, or set HF_TOKEN to a token that may write")


def push_export(name: str, checkpoint: Path, files: Sequence[str], folder: Path) -> None:
    """Upload a checkpoint, its model card and the files of its export in one commit, and print the address.

    A repository that does not exist is created as a private one.

    Args:
        name: OWNER/NAME.
        checkpoint: its file.
        files: of the export, relative to `folder`; "timm" is among them.
        folder: the run folder of the export.

    Raises:
        UserError: the Hub refuses it or is not reached. The repository then holds what it held before.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData
    from huggingface_hub.utils import disable_progress_bars

    header = ModelCardData(library_name="timm", pipeline_tag="image-classification", tags=["sports_lightning"])
    card = ModelCard(f"---\n{header.to_yaml()}\n---\n\n{(folder / MODEL_CARD).read_text(encoding='utf-8')}")
    sources = {"best.ckpt": checkpoint}
    for path in (*(folder / file for file in files), folder / "parity.json", folder / "parity.html"):
        if path.name == "timm":  # at the top, where timm looks for it
            sources |= {file.name: file for file in path.iterdir()}
        else:
            sources[path.relative_to(folder).as_posix()] = path
            if path.suffix == ".xml":  # of OpenVINO, whose weights are beside it
                sources[path.with_suffix(".bin").relative_to(folder).as_posix()] = path.with_suffix(".bin")
    operations = [CommitOperationAdd(target, str(source)) for target, source in sources.items()]
    operations.append(CommitOperationAdd("README.md", str(card).encode()))
    api = HfApi()
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        info = api.create_commit(name, operations, commit_message="Upload of a checkpoint and its exported files")
    except Exception as error:  # huggingface_hub and its HTTP client raise their own
        raise UserError(f"push={name} failed ({short_reason(error)}); the files are in {folder}") from error
    print(f"uploaded to {info.repo_url}")
