"""Networks: batches of graphs to outputs; torch."""
