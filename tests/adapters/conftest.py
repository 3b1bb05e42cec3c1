"""What this Python can run of the tests of adapters."""

import asyncio

collect_ignore = [] if hasattr(asyncio, "eager_task_factory") else ["test_eager_tasks.py"]  # from CPython 3.12 on
