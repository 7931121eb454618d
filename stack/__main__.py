"""`python -m stack <command>`; the Makefile's targets call these.

run        set up once, start everything, serve until Ctrl-C (--no-service: without our service)
serve      only our service, against the project in SUPABASE_URL
env        print NAME=value lines of the running stack, or of the next one
stop       stop the running stack of this checkout
reset      stop it and forget its data
schema     write supabase/schema.sql (--check: fail when it is out of date)
advisors   the security and performance advisors and the linter of the Supabase CLI
"""

from __future__ import annotations

import sys

from stack.console import StackError


def main(words: list[str]) -> int:
    match words:
        case ["run"] | ["run", "--no-service"]:
            from stack import supervisor

            supervisor.run(with_service=len(words) == 1)
        case ["serve"]:
            from stack import supervisor

            supervisor.serve()
        case ["env"]:
            from stack import supervisor

            supervisor.print_environment()
        case ["stop"]:
            from stack import supervisor

            print("stack: stopped" if supervisor.stop() else "stack: nothing was running", file=sys.stderr)
        case ["reset"]:
            from stack import supervisor

            supervisor.reset()
        case ["schema"] | ["schema", "--check"]:
            from stack import schema

            schema.write(check=len(words) == 2)
        case ["advisors"]:
            from stack import advisors

            advisors.check()
        case ["help"] | []:
            print(__doc__)
        case _:
            print(f"stack: there is no command {' '.join(words)!r}.\n{__doc__}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
