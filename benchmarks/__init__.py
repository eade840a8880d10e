"""What the gate costs beside other proxies: `python3 deploy/dev.py bench`. docs/performance.md tells what is measured, and how."""
