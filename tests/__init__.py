"""Never installed; run from the repository root."""
