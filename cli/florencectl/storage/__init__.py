"""A bucket that teams share: who may touch what in it, what fills it, and what nobody needs."""
