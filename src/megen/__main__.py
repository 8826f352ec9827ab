"""`python -m megen`."""

from megen.cli.main import main

raise SystemExit(main())
