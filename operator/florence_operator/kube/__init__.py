"""Talk to an API server: client, kubeconfig, kinds of objects, errors; knows no job."""
