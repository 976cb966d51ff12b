"""Ask the API server for right and wrong FlorenceJobs, as dry runs that store nothing."""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
JOBS = "/apis/florence.dev/v1alpha1/namespaces/{}/florencejobs?dryRun=All&fieldValidation=Strict"


def create(**pretrain):
    """The answer to a job of one stage: its code and message."""
    job = {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "helm-test"},
        "spec": {
            "image": "florence-jobs",
            "artifacts": {"uri": "s3://florence/runs"},
            "stages": [
                {
                    "name": "digits",
                    "resources": {"workers": 2},
                    "pretrain": {"data": "builtin:digits/train", "steps": 1, **pretrain},
                }
            ],
        },
    }
    with open(f"{ACCOUNT}/token", encoding="utf-8") as token:
        headers = {"Authorization": f"Bearer {token.read()}", "Content-Type": "application/json"}
    request = urllib.request.Request(
        "https://kubernetes.default.svc" + JOBS.format(os.environ["NAMESPACE"]),
        data=json.dumps(job).encode(),
        headers=headers,
    )
    try:
        tls = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
        with urllib.request.urlopen(request, context=tls, timeout=30) as answer:
            return answer.status, "taken"
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["message"]


expected = [({"batchSize": 128}, True, ""), ({"batchSize": 0}, False, "batchSize")]
if os.environ["WEBHOOK"] == "true":
    # Only the webhook knows that two workers cannot share 127 samples.
    expected.append(({"batchSize": 127}, False, "batchSize"))
for settings, right, word in expected:
    code, message = create(**settings)
    print(f"{settings}: {code} {message}")
    if (code == 201) is not right or word not in message:
        sys.exit(f"expected it to be {'taken' if right else f'refused for its {word}'}")
