"""Tell webhooks when the stages of a run and the run itself end."""
