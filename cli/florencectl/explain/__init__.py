"""Why a job stands where it stands, and its whole story."""
