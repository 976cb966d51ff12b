"""The machinery of a controller: client, caches, queue, election, servers; knows no job."""
