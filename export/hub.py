"""Upload a folder to the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError


def check_logged_in() -> None:
    """Raises ValueError without a token, which comes from `hf auth login` or HF_TOKEN."""
    if not get_token():
        raise ValueError("not logged in to the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN")


def upload_folder(
    folder: Path, repository: str, message: str, private: bool = False, space_sdk: str | None = None
) -> str:
    """Upload a folder to a repository, which is created if it does not exist. Returns its address.

    Args:
        repository: user/name.
        message: of the commit.
        private: create a new repository as private.
        space_sdk: "gradio" or "static" for a Space; None: a repository of a model.
    """
    api, repo_type = HfApi(), "model" if space_sdk is None else "space"
    try:
        api.create_repo(repository, repo_type=repo_type, space_sdk=space_sdk, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, repo_type=repo_type, folder_path=folder, commit_message=message)
        return str(commit.repo_url)
    except (HfHubHTTPError, HFValidationError) as error:
        raise ValueError(f"the Hub refused {repository}: {_first_line(error)}") from None
    except Exception as error:  # without a network: an error of whichever HTTP library huggingface_hub uses
        raise ValueError(f"{repository} could not be uploaded to {api.endpoint}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
