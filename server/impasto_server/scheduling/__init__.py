"""Pure decisions: who starts where, quotas, estimates."""
