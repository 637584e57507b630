"""Graphs: structures to crystal graphs; numpy only."""
