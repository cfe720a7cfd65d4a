"""One step of SVI: interpreted, captured as a graph, recorded as a CUDA graph, or shared among processes."""
