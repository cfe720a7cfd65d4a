"""How things run, knowing no probability: capture and replay of graphs, processes, seeds, files, progress."""
