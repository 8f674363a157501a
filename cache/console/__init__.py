"""What every command shares: messages, progress bars, exit codes and signals (`runner`), child processes.

From outside: `note`, `say` of `messages`, `progress` of `progress`, `run` of `runner`.
"""
