"""The comparisons behind docs/results.md, as commands that anyone can run again."""
