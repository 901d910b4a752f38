"""Signatures that others made, among them the examples of Amazon's own documentation."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from pileus.services.identity.ec2_signatures import SignedRequest, Unsigned, s3_signed_by, signed_by

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
S3_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EMPTY = hashlib.sha256(b"").hexdigest()


def iam(**changes: Any) -> SignedRequest:
    """The IAM ListUsers of "Signature Version 4 signing process"."""
    authorization = (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, Signature=unused"
    )
    given: dict[str, Any] = {
        "access": "AKIDEXAMPLE",
        "signature": "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        "verb": "GET",
        "host": "iam.amazonaws.com",
        "path": "/",
        "params": {"Action": "ListUsers", "Version": "2010-05-08"},
        "headers": {
            "Authorization": authorization,
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            "Host": "iam.amazonaws.com",
            "X-Amz-Date": "20150830T123600Z",
        },
        "body_hash": EMPTY,
    }
    return SignedRequest(**{**given, **changes})


def test_amazons_example_of_version_4_fits_and_bears_its_time() -> None:
    assert signed_by(SECRET, iam()) == (True, 1440938160.0)
    assert signed_by(SECRET + "x", iam())[0] is False


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/x"},
        {"verb": "DELETE"},
        {"params": {"Action": "DeleteUser", "Version": "2010-05-08"}},
        {"body_hash": "0" * 64},
        {"signature": ""},
        {"signature": "é"},
    ],
)
def test_what_was_changed_after_signing_does_not_fit(changes: dict[str, Any]) -> None:
    assert signed_by(SECRET, iam(**changes))[0] is False


def test_version_4_takes_its_time_from_what_was_signed_and_not_from_beside_it() -> None:
    posted = iam(verb="POST", params={"Timestamp": "2099-01-01T00:00:00Z"})
    assert signed_by(SECRET, posted)[1] == 1440938160.0


def test_version_4_may_stand_in_the_query() -> None:
    params = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": "a/20261126/us-east-1/ec2/aws4_request",
        "X-Amz-Date": "20261126T150000Z",
        "X-Amz-SignedHeaders": "host",
        "Action": "DescribeInstances",
    }
    asked = SignedRequest(
        access="a",
        signature="ae28fd8de3121ac18299f82f017697cb2942e14adfdf5f25cab564371602ba39",
        verb="GET",
        host="cloud.test",
        path="/",
        params=dict(params),
        headers={"Host": "cloud.test"},
        body_hash=EMPTY,
    )
    assert signed_by("ec2-secret", asked) == (True, 1795705200.0)


@pytest.mark.parametrize(
    ("version", "signature"),
    [("0", "KQoMkmarjdXMoEjZrpDepJ+RviM="), ("1", "Hmbt4fGoNHzqddFqR+IXPWOWfdQ=")],
)
def test_the_two_oldest_versions_fit(version: str, signature: str) -> None:
    params = {
        "SignatureVersion": version,
        "AWSAccessKeyId": "a",
        "Timestamp": "2026-11-26T15:00:00Z",
        "Action": "Foo",
    }
    asked = SignedRequest(access="a", signature=signature, params=dict(params))
    assert signed_by("ec2-secret", asked) == (True, 1795705200.0)
    asked.params["Action"] = "Bar"
    assert signed_by("ec2-secret", asked)[0] is False


@pytest.mark.parametrize(
    "signature",
    [
        "h61tczUU04L3OTZQ5lku3pcWqt/mP+uJ708NQ6z544o=",
        "dQu8vPJN9sinTXx3Cc5RhLPhkOlT1kScIDAmmv1/bkU=",
    ],
)
def test_version_2_fits_with_and_without_the_port(signature: str) -> None:
    asked = SignedRequest(
        access="a",
        signature=signature,
        verb="GET",
        host="cloud.test:8773",
        path="/services/Cloud",
        params={
            "SignatureVersion": "2",
            "AWSAccessKeyId": "a",
            "Timestamp": "2026-11-26T15:00:00Z",
            "Action": "Foo",
            "Tag": "a b/~ü",
        },
    )
    assert signed_by("ec2-secret", asked) == (True, 1795705200.0)


def test_amazons_example_of_version_2_fits() -> None:
    asked = SignedRequest(
        access="AKIAIOSFODNN7EXAMPLE",
        signature="i91nKc4PWAt0JJIdXwz9HxZCJDdiy6cf/Mj6vPxyYIs=",
        verb="GET",
        host="elasticmapreduce.amazonaws.com",
        path="/",
        params={
            "AWSAccessKeyId": "AKIAIOSFODNN7EXAMPLE",
            "Action": "DescribeJobFlows",
            "SignatureMethod": "HmacSHA256",
            "SignatureVersion": "2",
            "Timestamp": "2011-10-03T15:19:30",
            "Version": "2009-03-31",
        },
    )
    assert signed_by(S3_SECRET, asked)[0] is True


@pytest.mark.parametrize(
    "changes",
    [
        {"params": {"SignatureVersion": "3"}},
        {"params": {}, "headers": {}},
        {"headers": {"X-Amz-Date": "20150830T123600Z"}},
        {"headers": {"X-Amz-Date": "20150831T123600Z", "Authorization": "Credential=a/20150830/"}},
        {"params": {"SignatureVersion": "2", "Timestamp": "yesterday"}},
    ],
)
def test_what_cannot_have_been_signed_is_told_apart(changes: dict[str, Any]) -> None:
    with pytest.raises(Unsigned):
        signed_by(SECRET, iam(**changes))


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_amazons_examples_of_s3_fit() -> None:
    old = "GET\n\n\nTue, 27 Mar 2007 19:36:42 +0000\n/awsexamplebucket1/photos/puppy.jpg"
    assert s3_signed_by(S3_SECRET, encoded(old), "qgk2+6Sv9/oM7G3qLEjTH1a1l1g=")
    new = (
        "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n"
        "9766c798316ff2757b517bc739a67f6213b4ab36dd5da2f94eaebf79c77395ca"
    )
    signature = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    assert s3_signed_by(S3_SECRET, encoded(new), signature)
    assert not s3_signed_by(S3_SECRET, encoded(old), signature)
    for bad in ("AWS4\n", new.replace("/s3/", "/ec2/"), new.replace("aws4_request", "aws5")):
        with pytest.raises(Unsigned):
            s3_signed_by(S3_SECRET, encoded(bad), signature)
    with pytest.raises(Unsigned):
        s3_signed_by(S3_SECRET, "A", signature)
