"""
Projects as they stand in their folders, and as their scripts see them.

- `source`    what stands where in a project's folder, before anything of it runs
- `lineage`   a project with its ancestors: what it has or inherits
- `script`    the script of one message handler: its text, settings and function
- `library`   what a project's scripts see: `system`, and the packages of its library
- `prints`    where the prints of scripts go
- `files`     the library's files, on the disk or of one moment
- `project`   a generation of a project: its handlers, and what is wrong with others
- `toml`      files of settings, with line numbers for what is wrong in them
"""
