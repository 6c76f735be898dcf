"""Reports: what a detector found and what it got wrong, as one page, as Markdown and as JSON."""
