"""The machine: the agent's functions compiled for a mesh, seeds, and the schedule between them."""
