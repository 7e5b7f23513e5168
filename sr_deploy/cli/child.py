"""A command of srdeploy that ends with its parent process, even if that is killed: python -m
sr_deploy.cli.child ARGUMENTS (see `core/lifeline.py`).
"""

from __future__ import annotations

from sr_deploy.core.lifeline import end_with_parent


def main() -> None:
    """Run the command in sys.argv until it ends or standard input is closed."""
    from sr_deploy.cli.main import main as command

    end_with_parent()
    command()


if __name__ == "__main__":
    main()
