"""Callbacks: their tasks and models, stopping, errors, and scikit-learn's own."""

import pickle
import warnings
from copy import copy

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from recorders import PropagatedRecorder, Recorder, Snapshots
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvade import _callbacks

# The few epochs of a test do not learn an embedding.
pytestmark = pytest.mark.filterwarnings("ignore:The encoder does not reproduce")


def stage(name, n_epochs):
    return [f"+{name}", *["+epoch", "-epoch"] * n_epochs, f"-{name}"]


def calls_of_fit(*stages):
    inner = [call for one in stages for call in one]
    return ["setup", "+fit", *inner, "-fit", "teardown"]


def stop_in(stage):
    """Ask to stop after the second epoch of a stage."""
    current = []

    def begin(name, number, fitted):
        current[:] = [name] if name != "epoch" else current

    def end(name, number, fitted):
        return name == "epoch" and current == [stage] and number >= 1

    return {"begin": begin, "end": end}


# --- Tasks --------------------------------------------------------------------------

PRETRAIN, INIT, WARMUP = stage("pretrain", 10), stage("init", 0), stage("warmup", 1)
EMBEDDING, TRAIN = stage("embedding", 4), stage("train", 3)
# Of the data: no autoencoder is pretrained.
PCA_EMBEDDING = {"embedding": PCA(2), "embedding_max_iter": 4, "pretrain_max_iter": 0}


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
@pytest.mark.parametrize(
    ("parameters", "stages"),
    [
        ({}, [PRETRAIN, INIT, WARMUP, TRAIN]),
        (PCA_EMBEDDING, [EMBEDDING, INIT, WARMUP, TRAIN]),
        (
            {
                **PCA_EMBEDDING,
                "embedding_input": "autoencoder",
                "pretrain_max_iter": 10,
            },
            [PRETRAIN, EMBEDDING, INIT, WARMUP, TRAIN],
        ),
        (
            {"pretraining": "stacked", "hidden_layer_sizes": (8, 8)},
            [stage("pretrain", 40), INIT, WARMUP, TRAIN],
        ),
        (
            {"pretrain_max_iter": 0, "warmup_max_iter": 0},
            [stage("pretrain", 0), INIT, stage("warmup", 0), TRAIN],
        ),
    ],
    ids=str,
)
def test_tasks_come_in_order_and_as_many_as_announced(
    make_estimator, X, parameters, stages
):
    recorder = Recorder()
    make_estimator(**parameters).set_callbacks(recorder).fit(X)
    assert recorder.calls == calls_of_fit(*stages)
    for context in recorder.root:
        assert context.estimator_name == "VaDEClusterer"
        assert context.max_subtasks == len(context._children_map)


def test_a_warm_start_has_the_last_stage_only(make_estimator, X):
    model, recorder = make_estimator(warm_start=True).fit(X), Recorder()
    model.set_callbacks(recorder).fit(X)
    assert recorder.calls == calls_of_fit(TRAIN)
    assert recorder.root.max_subtasks == 1


def test_converged_training_ends_its_last_epoch(make_estimator, X):
    recorder = Recorder()
    model = (
        make_estimator(tol=1e6, n_iter_no_change=1, max_iter=9)
        .set_callbacks(recorder)
        .fit(X)
    )
    assert model.converged_
    assert model.n_iter_ == recorder.epochs()["train"] == 2
    assert recorder.calls[-4:] == ["-epoch", "-train", "-fit", "teardown"]


def test_callbacks_get_the_data_as_given(make_estimator, blobs):
    X, y = blobs
    samples, classes, weight = X.tolist(), ["abc"[c] for c in y], [*range(150)]
    recorder = Recorder()
    make_estimator().set_callbacks(recorder).fit(samples, classes, weight)
    assert recorder.data[0] is samples
    assert recorder.data[1] is classes
    assert recorder.data[2] == {"sample_weight": weight}
    make_estimator().set_callbacks(recorder).fit(X)
    assert recorder.data == (X, None, None)


@pytest.mark.parametrize("method", ["fit_predict", "fit_transform"])
def test_callbacks_get_y_from_every_method_that_fits(make_estimator, blobs, method):
    recorder, (X, y) = Recorder(), blobs
    getattr(make_estimator().set_callbacks(recorder), method)(X, y)
    assert recorder.data[1] is y


def test_partial_fit_calls_no_callbacks(make_estimator, X):
    recorder = Recorder()
    make_estimator().set_callbacks(recorder).partial_fit(X).partial_fit(X)
    assert recorder.calls == []


# --- The model of an epoch ----------------------------------------------------------


def test_there_is_a_model_from_the_start_of_the_mixture_on(make_estimator, X):
    snapshots = Snapshots()
    make_estimator().set_callbacks(snapshots).fit(X)
    without = [name for name, fitted in snapshots.kept if fitted is None]
    assert without == ["epoch"] * 10 + ["pretrain"]
    assert snapshots.kept[11][0] == "init"


@pytest.mark.parametrize(
    "parameters", [{}, {"likelihood": "bernoulli"}, {"responsibilities": "sampled"}]
)
def test_model_of_an_epoch_is_as_if_training_had_stopped(
    make_estimator, X_unit, parameters
):
    snapshots = Snapshots()
    make_estimator(**parameters).set_callbacks(snapshots).fit(X_unit)
    for n_epochs, model in enumerate(snapshots.at_epochs(), start=1):
        stopped = make_estimator(**parameters, max_iter=n_epochs).fit(X_unit)
        assert model.n_iter_ == n_epochs
        assert model.lower_bounds_ == stopped.lower_bounds_
        # The components are sorted in the end.
        order = model.means_[:, 0].argsort(), stopped.means_[:, 0].argsort()
        assert_array_equal(model.means_[order[0]], stopped.means_[order[1]])
        assert_allclose(
            model.predict_proba(X_unit)[:, order[0]],
            stopped.predict_proba(X_unit)[:, order[1]],
        )
        assert model.score(X_unit) == pytest.approx(stopped.score(X_unit))
        assert model._training_state["seed"] == stopped._training_state["seed"]


def test_model_of_an_epoch_has_no_attributes_of_an_earlier_fit(
    make_estimator, X, X_unit, X_new
):
    snapshots = Snapshots()
    model = make_estimator().fit(X_new).set_params(likelihood="bernoulli")
    model._version = "0.0.0"
    model.set_callbacks(snapshots).fit(X_unit)
    for snapshot in snapshots.at_epochs():
        assert len(snapshot.init_labels_) == 150
        assert not {"labels_", "lower_bound_", "noise_variance_"} & set(vars(snapshot))


def test_model_of_an_epoch_is_independent_of_the_fit(make_estimator, X):
    snapshots = Snapshots()
    make_estimator().set_callbacks(snapshots).fit(X)
    first = snapshots.at_epochs()[0]
    assert not [name for name in vars(first) if "callback" in name]
    assert len(first.lower_bounds_) == 1
    loaded = pickle.loads(pickle.dumps(first))
    assert_array_equal(loaded.predict_proba(X), first.predict_proba(X))
    assert len(loaded.partial_fit(X).lower_bounds_) == 2
    calls = len(snapshots.calls)
    first.fit(X)
    assert len(snapshots.calls) == calls


def test_model_is_built_only_if_asked_for(make_estimator, X, monkeypatch):
    class NoModelRecorder(Recorder):
        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, X):
            pass

    monkeypatch.setattr(_callbacks, "snapshot", None)
    make_estimator().set_callbacks(NoModelRecorder()).fit(X)


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
def test_scores_of_each_epoch(make_estimator, blobs):
    X, y = blobs
    monitor = ScoringMonitor(scoring="adjusted_rand_score")
    weight = np.arange(150.0)
    model = make_estimator(n_clusters=5, learning_rate_init=1e-2).set_callbacks(monitor)
    model.fit(X, y, sample_weight=weight)
    log = monitor.get_logs().data
    scores = {entry["task_id_path"]: entry["adjusted_rand_score"] for entry in log}

    def score_after(n_epochs):
        other = clone(model).set_callbacks().set_params(max_iter=n_epochs)
        return adjusted_rand_score(y, other.fit(X, sample_weight=weight).labels_)

    assert scores[(0,)] == adjusted_rand_score(y, model.labels_)
    expected = [score_after(n_epochs) for n_epochs in (1, 2, 3)]
    assert len(set(expected)) > 1
    assert_allclose([scores[0, 3, n] for n in range(3)], expected)
    assert not [path for path in scores if path[:2] == (0, 0)]


# --- Stopping -----------------------------------------------------------------------


def test_stop_in_the_last_stage_keeps_what_was_learned(make_estimator, X):
    recorder = Recorder(**stop_in("train"))
    model = make_estimator(max_iter=9, tol=1e-3).set_callbacks(recorder).fit(X)
    assert model.n_iter_ == 2
    assert not model.converged_
    assert_array_equal(model.means_, make_estimator(max_iter=2).fit(X).means_)
    assert_array_equal(model.predict(X), model.labels_)
    assert recorder.calls[-4:] == ["-epoch", "-train", "-fit", "teardown"]


def test_stop_at_the_last_epoch_of_max_iter_does_not_warn(make_estimator, X):
    recorder = Recorder(**stop_in("train"))
    model = make_estimator(max_iter=2, tol=1e-3).set_callbacks(recorder).fit(X)
    assert not model.converged_


def test_stop_with_validation_samples_keeps_the_best_epoch(make_estimator, X):
    recorder = Recorder(**stop_in("train"))
    parameters = {"early_stopping": True, "learning_rate_init": 3e-3}
    model = make_estimator(max_iter=9, **parameters).set_callbacks(recorder).fit(X)
    assert len(model.validation_scores_) == 2
    assert_array_equal(
        model.means_, make_estimator(max_iter=2, **parameters).fit(X).means_
    )


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
@pytest.mark.parametrize("name", ["pretrain", "embedding", "warmup"])
@pytest.mark.parametrize("pretraining", ["autoencoder", "stacked", "vae"])
def test_stop_in_an_earlier_stage_goes_on_with_the_next(
    make_estimator, X, name, pretraining
):
    recorder = Recorder(**stop_in(name))
    settings = {"embedding": PCA(2), "embedding_input": "autoencoder"}
    settings |= {"embedding_max_iter": 5, "warmup_max_iter": 5}
    model = make_estimator(pretraining=pretraining, learning_rate_init=1e-2, **settings)
    model.set_callbacks(recorder).fit(X)
    n_pretrain = 30 if pretraining == "stacked" else 10
    full = {"pretrain": n_pretrain, "embedding": 5, "init": 0, "warmup": 5, "train": 3}
    assert recorder.epochs() == {**full, name: 2}


def test_an_embedding_that_was_stopped_does_not_warn(make_estimator, X):
    settings = {"embedding": PCA(2), "embedding_input": "autoencoder"}
    model = make_estimator(embedding_max_iter=5, **settings)
    model.set_callbacks(Recorder(**stop_in("embedding")))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The encoder does not reproduce")
        model.fit(X)
    assert model.embedding_loss_curve_[-1] > 0.1


def test_stopping_always_leaves_a_model(make_estimator, X):
    recorder = Recorder(end=lambda *args: True)
    model = make_estimator(max_iter=9, tol=1e-3).set_callbacks(recorder).fit(X)
    assert set(recorder.epochs().values()) == {0, 1}
    assert model.n_iter_ == 1
    assert np.isfinite(model.lower_bound_)


# --- Errors and interrupts ----------------------------------------------------------


def fail_at(call, when):
    def fail(name, number, fitted):
        if name == call:
            raise ArithmeticError(call)

    return Recorder(**{when: fail})


@pytest.mark.parametrize("when", ["begin", "end"])
@pytest.mark.parametrize("task", ["fit", "pretrain", "init", "train", "epoch"])
def test_error_in_a_callback_leaves_the_model_as_it_was(fitted, X_new, task, when):
    recorder = fail_at(task, when)
    model = copy(fitted).set_callbacks(recorder)
    before = dict(vars(model))
    with pytest.raises(ArithmeticError, match=task):
        model.fit(X_new)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)
    assert recorder.calls.count("teardown") == 1


@pytest.mark.parametrize(
    "parameters", [{"learning_rate_init": 1e30}, {"n_clusters": 999}]
)
def test_error_in_fit_tears_down(make_estimator, X, parameters):
    recorder = Recorder()
    model = make_estimator(**parameters).set_callbacks(recorder)
    with pytest.raises(ValueError, match=r"not finite|n_samples=150"):
        model.fit(X)
    assert recorder.calls[-1] == "teardown"
    assert "-fit" not in recorder.calls
    assert set(vars(model)) == {*model.get_params(), "_skl_callbacks"}


def test_interrupt_in_the_last_stage_ends_the_stage(make_estimator, X):
    def interrupt(name, number, fitted):
        if name == "epoch" and fitted is not None and fitted.n_iter_ == 2:
            raise KeyboardInterrupt

    recorder = Recorder(end=interrupt)
    with pytest.warns(UserWarning, match="Interrupted after 2 epochs"):
        model = make_estimator(max_iter=9).set_callbacks(recorder).fit(X)
    assert model.n_iter_ == 2
    assert recorder.calls[-3:] == ["-train", "-fit", "teardown"]


# --- No effect on the result --------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Clusters share a mode")
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"early_stopping": True, "n_draws": 2},
        {"responsibilities": "sampled", "pretraining": "vae"},
        {**PCA_EMBEDDING, "embedding": PCA(2, random_state=0)},
        {"pretraining": "stacked", "precision": "float64"},
    ],
    ids=str,
)
def test_results_are_the_same_to_the_last_bit(make_estimator, blobs, parameters):
    X, y = blobs
    parameters = {"learning_rate_init": 3e-3, **parameters}
    monitor = ScoringMonitor(scoring=["adjusted_rand_score", "rand_score"])
    model = make_estimator(**parameters).set_callbacks(Recorder(), monitor).fit(X, y)
    plain = make_estimator(**parameters).fit(X)
    assert joblib.hash(model.set_callbacks()) == joblib.hash(plain)


def test_nothing_but_the_callbacks_is_left(make_estimator, blobs, capsys):
    X, y = blobs
    monitor = ScoringMonitor(scoring="adjusted_rand_score")
    model = make_estimator().set_callbacks(ProgressBar(), monitor).fit(X, y)
    assert set(vars(model)) - set(vars(make_estimator().fit(X))) == {"_skl_callbacks"}
    assert set(vars(clone(model))) == {*model.get_params(), "_skl_callbacks"}
    loaded = pickle.loads(pickle.dumps(model))
    assert_array_equal(loaded.predict(X), model.labels_)
    assert_array_equal(loaded.fit(X, y).labels_, model.labels_)
    assert joblib.hash(model.set_callbacks()) == joblib.hash(make_estimator().fit(X))


def test_printed_lines_stay_as_they_are(make_estimator, X, capsys):
    make_estimator(verbose=2).fit(X)
    plain = capsys.readouterr().out
    make_estimator(verbose=2).set_callbacks(Recorder()).fit(X)
    assert capsys.readouterr().out == plain
    assert "Training epoch 2" in plain


# --- The tools of scikit-learn ------------------------------------------------------


def test_progress_bar(make_estimator, X, capsys):
    make_estimator().set_callbacks(ProgressBar()).fit(X)
    lines = capsys.readouterr().out.splitlines()
    tasks = [line.split("━")[0].strip() for line in lines]
    assert tasks == [
        "VaDEClusterer - fit",
        "VaDEClusterer - pretrain #0",
        "VaDEClusterer - warmup #2",
        "VaDEClusterer - train #3",
    ]
    assert all("100%" in line for line in lines)


def test_pipeline_passes_callbacks_on(make_estimator, blobs):
    recorder = PropagatedRecorder()
    pipeline = make_pipeline(StandardScaler(), make_estimator(max_iter=1))
    pipeline.set_callbacks(recorder).fit_predict(*blobs)
    inner = calls_of_fit(PRETRAIN, INIT, WARMUP, stage("train", 1))[1:-1]
    assert recorder.calls[-len(inner) - 2 : -2] == inner
    assert recorder.calls[-2:] == ["-fit-predict", "teardown"]
    assert recorder.data[1] is blobs[1]
    assert set(vars(pipeline[-1])) == set(vars(make_estimator().fit(blobs[0])))


def test_pipeline_passes_the_data_on(make_estimator, blobs):
    X, y = blobs
    monitor = ScoringMonitor(scoring="adjusted_rand_score")
    pipeline = make_pipeline(
        StandardScaler(), make_estimator().set_callbacks(monitor)
    ).fit(X, y)
    scores = {r["task_name"]: r["adjusted_rand_score"] for r in monitor.get_logs().data}
    assert scores["fit"] == adjusted_rand_score(y, pipeline.predict(X))


def test_search_in_processes_passes_callbacks_on(make_estimator, blobs, capsys):
    X, y = blobs
    monitor = ScoringMonitor(scoring="adjusted_rand_score")
    model = make_estimator(max_iter=2).set_callbacks(monitor)
    search = GridSearchCV(model, {"n_clusters": [2, 3]}, cv=2, n_jobs=2)
    search.set_callbacks(ProgressBar()).fit(X, y)
    log = monitor.get_logs().data
    n_epochs = sum(entry["task_name"] == "epoch" for entry in log)
    assert n_epochs == 5 * (1 + 2)  # four fits and the last one, two stages each
    final = log[[len(entry["task_id_path"]) for entry in log].index(2)]
    assert final["adjusted_rand_score"] == adjusted_rand_score(y, search.predict(X))
    assert capsys.readouterr().out.count("VaDEClusterer - fit") == 5
    assert not hasattr(search.best_estimator_, "_parent_callback_ctx")
