"""All trials side by side in TensorBoard: their curves, and its comparison of hyperparameters."""

import shutil
from pathlib import Path

from google.protobuf.struct_pb2 import Value
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from dist_oaa.stages.launching import records
from dist_oaa.stages.tuning.report import Results
from dist_oaa.stages.tuning.results import TrialResult
from dist_oaa.stages.tuning.space import describe


def write_curves(results: Results, folder: Path) -> None:
    """Writes the folder anew: one TensorBoard run a trial.

    Raises:
        OSError: when it cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    experiment = api_pb2.Experiment(
        hparam_infos=[hparam_info(results, key) for key in results.sweep.keys],
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=column), display_name=column)
            for column in results.columns
        ],
    )
    data = plugin_data_pb2.HParamsPluginData(version=0, experiment=experiment)
    write_events(folder, [plugin_event(metadata.EXPERIMENT_TAG, data)])
    for trial in results.trials:
        if trial.epochs:
            write_events(folder / trial.run.folder.name, trial_events(results, trial))


def trial_events(results: Results, trial: TrialResult) -> list[Event]:
    """One trial's settings and curves."""
    start = plugin_data_pb2.SessionStartInfo(
        hparams={key: proto_value(value) for key, value in trial.point.items()},
        # The seeds of a point share a group: TensorBoard shows their mean.
        group_name=describe(trial.point, results.sweep.keys),
    )
    data = plugin_data_pb2.HParamsPluginData(version=0, session_start_info=start)
    events = [plugin_event(metadata.SESSION_START_INFO_TAG, data)]
    for entry in records.closed_epochs(trial.run.folder, trial.run.stage)[: trial.epochs]:
        for column in results.columns:
            if entry.get(column) is not None:
                value = Summary.Value(tag=column, simple_value=entry[column])
                events.append(Event(step=entry["epoch"] + 1, summary=Summary(value=[value])))
    return events


def hparam_info(results: Results, key: str) -> api_pb2.HParamInfo:
    """What TensorBoard has to know of a setting to sort and filter by it."""
    values = [trial.point[key] for trial in results.trials]
    kind = {"number_value": "DATA_TYPE_FLOAT64", "bool_value": "DATA_TYPE_BOOL"}
    kinds = {proto_value(value).WhichOneof("kind") for value in values}
    name = kind.get(kinds.pop() if len(kinds) == 1 else "", "DATA_TYPE_STRING")
    return api_pb2.HParamInfo(name=key, type=api_pb2.DataType.Value(name))


def proto_value(value: object) -> Value:
    """A setting's value as TensorBoard's comparison takes it."""
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, int | float):
        return Value(number_value=value)
    return Value(string_value=str(value))


def plugin_event(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Event:
    """What the comparison reads, which travels as a summary without a value of its own."""
    about = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString()
    )
    value = Summary.Value(
        tag=tag, metadata=SummaryMetadata(plugin_data=about), tensor=metadata.NULL_TENSOR
    )
    return Event(summary=Summary(value=[value]))


def write_events(folder: Path, events: list[Event]) -> None:
    """Writes an event file."""
    writer = EventFileWriter(str(folder))
    for event in events:
        writer.add_event(event)
    writer.close()
