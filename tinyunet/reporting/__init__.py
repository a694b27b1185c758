"""Pictures, and what a run was made on.

- `plots`: curves, overlays, samples, mistakes.
- `environment`: machine and versions.
"""
