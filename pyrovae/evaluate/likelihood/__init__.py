"""log p(x): exact, by quadrature, or bounded by importance weights and annealing; and how far each can be trusted."""
