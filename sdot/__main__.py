"""`python -m sdot`."""

from .cli import main

raise SystemExit(main())
