"""Device groups as HLO writes them, named by hand on a small mesh: data 2, fsdp 2, tensor 2, devices 0 to 7."""

import pytest

from llama3_jax.plan.replica_groups import AxisNames, parse_groups

AXES = AxisNames({"data": 2, "fsdp": 2, "stage": 1, "context": 1, "tensor": 2})


@pytest.mark.parametrize(
    ("text", "name", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", "tensor", 2),
        ("{{3,2},{0,1},{7,6},{4,5}}", "tensor", 2),
        ("{{0,2},{1,3},{4,6},{5,7}}", "fsdp", 2),
        ("{{0,4},{1,5},{2,6},{3,7}}", "data", 2),
        ("{{0,2,4,6},{1,3,5,7}}", "data+fsdp", 4),
        ("{{0,1,2,3},{4,5,6,7}}", "fsdp+tensor", 4),
        ("{{0,1,4,5},{2,3,6,7}}", "data+tensor", 4),
        ("{}", "data+fsdp+tensor", 8),
        ("[1,8]<=[8]", "data+fsdp+tensor", 8),
        ("[4,2]<=[8]", "tensor", 2),
        ("[4,2]<=[2,2,2]T(0,2,1)", "fsdp", 2),
        ("[4,2]<=[2,4]T(1,0)", "data", 2),
        ("[2,4]<=[4,2]T(1,0)", "data+fsdp", 4),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", "tensor", 2),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", "data+fsdp", 4),
        ("mesh['data'=2,'fsdp'=2,'stage'=1,'context'=1,'tensor'=2] {'data','tensor'}", "data+tensor", 4),
        ("mesh['a'=8] {'a':(1)2}", "data", 2),
        ("mesh['a'=8] {'a':(4)2}", "tensor", 2),
        ("{{0},{1},{2},{3},{4},{5},{6},{7}}", "self", 1),
        ("{{0,3},{1,2},{4,7},{5,6}}", "other", 2),
        ("{{0,1,2},{3,4,5,6,7}}", "other", 0),
        ("something new", "other", 0),
    ],
)
def test_groups_are_named_by_the_axes_they_span(text, name, size):
    assert AXES.of_groups(text) == (name, size)


@pytest.mark.parametrize(
    ("pairs", "name", "size"),
    [
        ("{{0,1},{1,0},{2,3},{3,2},{4,5},{5,4},{6,7},{7,6}}", "tensor", 2),
        ("{{0,2},{1,3}}", "fsdp", 2),
        ("{{0,4},{4,0}}", "data", 2),
        ("{{0,3}}", "fsdp+tensor", 4),
        ("{{5,5}}", "self", 1),
        ("{{0,9}}", "other", 0),
    ],
)
def test_pairs_are_named_by_the_axes_along_which_they_differ(pairs, name, size):
    assert AXES.of_pairs(pairs) == (name, size)


def test_groups_of_a_whole_cluster_are_named_quickly():
    axes = AxisNames({"data": 8, "fsdp": 16, "stage": 16, "context": 1, "tensor": 8})
    assert axes.of_groups("[2048,8]<=[16384]") == ("tensor", 8)
    assert axes.of_groups("[128,128]<=[128,128]T(1,0)") == ("data+fsdp", 128)


def test_one_device_has_no_axes():
    assert AxisNames({"data": 1, "tensor": 1}).of_groups("{}") == ("self", 1)


def test_an_iota_is_a_transposed_count():
    assert parse_groups("[4,2]<=[2,2,2]T(2,1,0)", 8).tolist() == [[0, 4], [2, 6], [1, 5], [3, 7]]
