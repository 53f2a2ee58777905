"""How to get the files of a task."""

import shlex
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Download(BaseModel):
    """One way to get files.

    Args:
        repo: data set on the Hugging Face hub; None if the files are elsewhere.
        include: patterns of the files that are needed; none for all.
        gated: the terms have to be accepted on its page, with an account.
        url: where else the files are.
        after: shell commands to run in the folder then.
        note: what to know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo: str | None = None
    include: tuple[str, ...] = ()
    gated: bool = False
    url: str | None = None
    after: tuple[str, ...] = ()
    note: str = ""

    def commands(self, folder: Path) -> list[str]:
        """Write the shell commands; what is no command begins with ``#``."""
        there = shlex.quote(str(folder))
        lines = [f"# {self.note}"] if self.note else []
        if self.gated:
            lines.append(f"# accept the terms at https://huggingface.co/datasets/{self.repo} first")
            lines.append("hf auth login")
        if self.repo:
            only = "".join(f" --include '{pattern}'" for pattern in self.include)
            lines.append(f"hf download {self.repo} --repo-type dataset --local-dir {there}{only}")
        if self.url:
            lines.append(f"# download {self.url} into {folder}")
        return lines + [f"(cd {there} && {command})" for command in self.after]
