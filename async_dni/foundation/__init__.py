"""What every floor stands on: how a setting is declared, checked and refused, registries, files that are written whole."""
