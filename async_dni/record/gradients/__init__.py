"""How good the gradients are that stages update with: held against the true ones, while a run goes on."""
