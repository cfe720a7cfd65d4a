"""Graphs of static functions: replayed they give what the function gives; what depends on values is refused."""

import pytest
import torch
from torch.nn import functional as F

from pyrovae.engine.capture import NotStatic, capture


def test_a_graph_gives_values_and_gradients_of_other_inputs():
    weight, x = torch.randn(3, requires_grad=True), torch.randn(5, 3)

    def function():
        loss = (x * weight).sin().sum()
        return [loss.detach(), *torch.autograd.grad(loss, [weight])]

    graph, first = capture(function, [weight, x])
    assert [each.tolist() for each in graph(weight, x)] == [each.tolist() for each in first]
    other, y = torch.randn(3), torch.randn(5, 3)
    value, gradient = graph(other, y)
    torch.testing.assert_close(value, (y * other).sin().sum())
    torch.testing.assert_close(gradient, (y * (y * other).cos()).sum(0))


def test_draws_are_fresh_and_follow_the_seed():
    x = torch.zeros(4)
    graph, _ = capture(lambda: [x + torch.randn(4), torch.bernoulli(x + 0.5), F.dropout(x + 1)], [x])
    torch.manual_seed(1)
    eager = [torch.randn(4), torch.bernoulli(x + 0.5), F.dropout(x + 1)]
    torch.manual_seed(1)
    assert all(torch.equal(one, other) for one, other in zip(graph(x), eager, strict=True))
    assert not torch.equal(graph(x)[0], graph(x)[0])


def test_other_tensors_enter_by_reference_numbers_as_they_are():
    x, other, number = torch.ones(2), torch.tensor(3.0), 5.0
    graph, _ = capture(lambda: [x * other * number], [x])
    other.fill_(4.0)
    number = 6.0
    assert graph(x)[0].tolist() == [20.0, 20.0]


def test_a_number_taken_from_a_tensor_stays_a_value_of_the_graph():
    x = torch.ones(2)
    graph, _ = capture(lambda: [x * x.sum().item()], [x])
    assert graph(torch.full((2,), 3.0))[0].tolist() == [18.0, 18.0]


def test_one_hot_codes_are_of_the_labels_at_hand():
    y = torch.tensor([0, 1])
    graph, (first,) = capture(lambda: [F.one_hot(y, 3)], [y])
    assert first.tolist() == F.one_hot(y, 3).tolist()
    assert graph(torch.tensor([2, 0]))[0].tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x if x.sum() > 0 else -x, "it branches on the value of a tensor at .*test_capture.py"),
        (lambda x: x * float(x[1]), "it makes a Python number of a tensor at .*test_capture.py"),
        (lambda x: x * x.tolist()[1], "it makes a Python list of a tensor at .*test_capture.py"),
        (lambda x: x * x.numpy()[1], "it takes a tensor to NumPy at .*test_capture.py"),
        (lambda x: x.new_ones(x[1].long()), "it reads the value of a tensor at .*test_capture.py"),
        (lambda x: x[x > 1], "`index`, which gives a tensor whose shape depends on values"),
        (lambda x: x.masked_select(x > 1), "`masked_select`, which gives a tensor whose shape depends on values"),
        (lambda x: F.one_hot(x.long()), "`one_hot` without a number of classes at .*test_capture.py"),
    ],
)
def test_what_depends_on_values_is_refused_with_the_place(function, reason):
    x = torch.arange(3.0)
    with pytest.raises(NotStatic, match=reason):
        capture(lambda: [function(x)], [x])


def test_a_branch_on_a_tensor_that_is_no_input_is_refused_as_well():
    x, other = torch.ones(2), torch.tensor(True)
    with pytest.raises(NotStatic, match="it branches on the value of a tensor"):
        capture(lambda: [x if other else -x], [x])


def test_rows_are_taken_by_an_index():
    data, index = torch.arange(6.0).reshape(3, 2), torch.tensor([2, 0])
    graph, _ = capture(lambda: [data[index]], [index])
    assert graph(torch.tensor([1, 1]))[0].tolist() == [[2.0, 3.0], [2.0, 3.0]]


def test_idle_operations_are_left_out():
    x = torch.randn(3, 4)
    graph, first = capture(lambda: [((x.t().t() + 0).view(3, 4).expand(3, 4) / 1).detach().sin().sum() * 2], [x])
    targets = [node.target for node in graph.module.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.aten.sin.default, torch.ops.aten.sum.default, torch.ops.aten.mul.Tensor]
    assert graph(x)[0] == first[0]


def test_an_operation_that_only_seems_idle_stays():
    x, whole = torch.randn(3), torch.arange(3)

    def function():
        copy = x + 0
        copy[0] = 7.0
        return [x * 2, copy, whole + 0.0, (x / 0).nan_to_num(None)]

    graph, first = capture(function, [x])
    assert all(torch.equal(one, other) for one, other in zip(graph(x), first, strict=True))


def test_what_is_drawn_stays_though_nobody_uses_it():
    """Else the draws after it would be others."""
    x = torch.zeros(2)

    def function():
        torch.randn(3)
        return [x + torch.randn(2)]

    graph, _ = capture(function, [x])
    torch.manual_seed(0)
    (expected,) = function()
    torch.manual_seed(0)
    assert torch.equal(graph(x)[0], expected)
