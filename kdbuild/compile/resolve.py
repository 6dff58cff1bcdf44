"""One spec to its stages: every default filled in, every name turned into a path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbuild.compile.cast import Cast
from kdbuild.compile.stages import Stage, keyed
from kdbuild.elicitors import Conversing
from kdbuild.kinds import identity, load
from kdbuild.objectives import Objective
from kdbuild.seeds import Seeds
from kdbuild.spec import layout, sections, sources
from kdbuild.spec.model import Params, Phase, Spec
from kdbuild.spec.names import PHASE, STUDENT
from kdbuild.teachers import Signal


@dataclass
class Models:
    """The models of a project that must be fetched or converted, by name; one source has one name."""

    by_name: dict[str, str] = field(default_factory=dict)

    def weights(self, source: str | None, name: str) -> str | None:
        """Return where the files of `source` are; a source that must be fetched gets a model stage called `name`."""
        if source is None:
            return None
        if sources.needs_fetch(source):
            name = next((known for known, given in self.by_name.items() if given == source), name)
            self.by_name[name] = source
        return sources.weights_of(source, name)

    def stages(self) -> list[Stage]:
        """Return one stage a model, and the stage that writes their resolved.json."""
        found = []
        for name, source in sorted(self.by_name.items()):
            deps = tuple(("source", path) for path in sources.files_of(source))
            section = identity(sections.ModelSection(source=source))
            stage = Stage("models", "model", name, layout.MODELS, (name,), section, deps, outs=(layout.weights(name),))
            found.append(keyed(stage))
        return found


@dataclass
class Resolver:
    """Builds the stages of one spec, in the order they run."""

    name: str
    spec: Spec
    params: Params
    root: Path
    models: Models
    peers: Mapping[str, Spec]
    """Every spec of the project by name, for `data: [{from: other/phase}]`."""

    def stages(self) -> list[Stage]:
        """Return every stage of the spec but its compile stage."""
        spec, found = self.spec, []
        if spec.seeds and self._outside(spec.seeds) is not None:
            found.append(self._seeds(spec.seeds))
        if spec.student:
            found.append(self._init())
        for phase_name, phase in spec.phases.items():
            if has_data(phase):
                found += [self._elicit(phase_name, phase), self._select(phase_name, phase)]
            if phase.objectives:
                found.append(self._train(phase_name, phase))
        if spec.evaluate and self._trained():
            found.append(self._evaluate())
        return [*found, self._report()]

    # --- steps -------------------------------------------------------------------------------------------------------

    def _stage(self, step: str, phase: str | None, section: Any, deps: list[tuple[str, str]], *also: Any, **outs: Any) -> Stage:
        part = (phase, step) if phase else (step,)
        stage = Stage(self.name, step, phase, layout.resolved(self.name), part, identity(section), tuple(deps), **outs)
        return keyed(stage, *also)

    def _outside(self, seeds: Seeds) -> dict[str, str] | None:
        found = seeds.outside()
        return None if found is None else {key: str(value) for key, value in found.items()}

    def _seeds(self, seeds: Seeds) -> Stage:
        section = sections.SeedsSection(seeds=seeds, outside=self._outside(seeds) or {})
        return self._stage("seeds", None, section, [], outs=(layout.out(self.name, "seeds", "rows"),))

    def _init(self) -> Stage:
        student = self.spec.student
        assert student is not None
        source = next(iter(student.sources()), None)
        weights = self.models.weights(source, f"{self.name}-student")
        teacher = self._teacher(self.spec.teacher) if student.starts_from_teacher() else None
        section = sections.InitSection(student=student, weights=weights, teacher=teacher)
        deps = [*self._weights_dep("student", weights), *self._teacher_deps(teacher)]
        return self._stage("init", None, section, deps, outs=(self._model("init"),))

    def _elicit(self, name: str, phase: Phase) -> Stage:
        spec = self.spec
        cast = Cast(spec, self.params, name)
        operators = [cast.written_out(operator) for operator in phase.elicit]
        actors = {
            word: self._actor(cast, word) for operator in operators if operator.needs for word in (*operator.actors, *operator.others)
        }
        inside, rows, deps = None, "", [dep for use in actors.values() for dep in self._teacher_deps(use)]
        if phase.on != "seeds":
            rows = layout.out(self.name, phase.on, "selected")
        elif spec.seeds and self._outside(spec.seeds) is not None:
            rows = layout.out(self.name, "seeds", "rows")
        else:
            inside = spec.seeds
            deps += [("seeds", path) for path in inside.files()] if inside else []
        if rows:
            deps.append(("rows", rows))
        deps += [("template", path) for operator in operators for path in operator.files()]
        embedder = self._embedder() if any(operator.needs_embedder for operator in operators) else None
        deps += self._weights_dep("embedder", embedder.weights) if embedder else []
        section = sections.ElicitSection(
            rows=rows,
            seeds=inside,
            from_seeds=phase.on == "seeds",
            actors=actors,
            operators=operators,
            embedder=embedder,
            held_out_frac=spec.held_out_frac if any(operator.pooled for operator in operators) else None,
            accept_failed_frac=spec.accept_failed_frac,
        )
        templates = [_digest(path) for operator in operators for path in operator.templates()]
        names = ["elicited", "calls", *(["features"] if has_features(phase) else [])]
        outs = tuple(layout.out(self.name, name, one) for one in names)
        return self._stage("elicit", name, section, deps, templates, outs=outs, metrics=(layout.facts(self.name, name, "elicit"),))

    def _select(self, name: str, phase: Phase) -> Stage:
        cast, rows = Cast(self.spec, self.params, name), layout.out(self.name, name, "elicited")
        asking = [step for step in phase.select if isinstance(step, Conversing) and step.needs]
        actors = {word: self._actor(cast, word) for step in asking for word in (*step.actors, *step.others)}
        embedder = self._embedder() if any(step.needs_embedder for step in phase.select) else None
        pools = {pool: self._selected(pool) for step in phase.select for pool in step.pools}
        deps = [("rows", rows), *(self._weights_dep("embedder", embedder.weights) if embedder else [])]
        deps += [dep for use in actors.values() for dep in self._teacher_deps(use)]
        deps += [(f"pool {pool}", path) for pool, path in pools.items()]
        deps += [("file", path) for step in phase.select for path in step.files()]
        section = sections.SelectSection(
            rows=rows,
            steps=phase.select,
            actors=actors,
            embedder=embedder,
            pools=pools,
            held_out_frac=self.spec.held_out_frac,
            accept_failed_frac=self.spec.accept_failed_frac,
        )
        templates = [_digest(path) for step in phase.select if isinstance(step, Conversing) for path in step.templates()]
        outs = (layout.out(self.name, name, "selected"), layout.out(self.name, name, "dropped"))
        return self._stage("select", name, section, deps, templates, outs=outs, metrics=(layout.facts(self.name, name, "select"),))

    def _train(self, name: str, phase: Phase) -> Stage:
        data, start = self._data(name), self._model(self._start(name))
        objectives = [self._named(name, objective) for objective in phase.objectives]
        teachers = {o.teacher: self._teacher(o.teacher) for o in objectives if o.teacher}
        section = sections.TrainSection(
            data=data,
            start=start,
            objectives=objectives,
            teachers={key: use for key, use in teachers.items() if use},
            features=self._features(name) if any(objective.signal == "stored" for objective in objectives) else [],
            adaptation=phase.adaptation,
            train=phase.train,
        )
        deps = [*(("data", path) for path in data), ("start", start), *(("features", path) for path in section.features)]
        deps += [dep for use in section.teachers.values() for dep in self._teacher_deps(use)]
        outs = [self._model(name)]
        if phase.adaptation:
            outs.append(layout.out(self.name, name, "adapter"))
        return self._stage("train", name, section, deps, outs=tuple(outs), metrics=(layout.facts(self.name, name, "train"),))

    def _evaluate(self) -> Stage:
        trained = self._trained()
        rows = self._data(trained[-1])
        use = self._teacher(self.spec.teacher) if self.spec.teacher else None
        if use and Signal.LOGITS not in use.teacher.gives:
            use = None
        models = {name: self._model(name) for name in ["init", *trained]}
        section = sections.EvaluateSection(rows=rows, models=models, teacher=use, evaluators=self.spec.evaluate)
        deps = [*(("rows", path) for path in rows), *((f"model {name}", path) for name, path in models.items())]
        deps += self._teacher_deps(use)
        outs = (layout.out(self.name, "evaluate", "plots"),)
        return self._stage("evaluate", None, section, deps, list(models), outs=outs, metrics=(layout.metrics(self.name),))

    def _report(self) -> Stage:
        spec, steps, deps = self.spec, {}, []
        for name, phase in spec.phases.items():
            steps[name] = [*(["elicit", "select"] if has_data(phase) else []), *(["train"] if phase.objectives else [])]
            deps += [("facts", layout.facts(self.name, name, step)) for step in steps[name]]
            if has_data(phase):
                deps += [("data", layout.out(self.name, name, part)) for part in ("calls", "selected", "dropped")]
        if spec.evaluate and self._trained():
            deps += [("metrics", layout.metrics(self.name)), ("plots", layout.out(self.name, "evaluate", "plots"))]
        teacher = self.params.teachers.get(spec.teacher) if spec.teacher else None
        section = sections.ReportSection(
            spec=self.name,
            target=spec.target,
            teacher=teacher.summary(spec.teacher) if teacher and spec.teacher else None,
            licence=teacher.licence if teacher else None,
            student=spec.student.summary() if spec.student else None,
            phases=steps,
        )
        outs = (layout.report(self.name), layout.out(self.name, "evaluate", "cards"))
        return self._stage("report", None, section, deps, list(steps), outs=outs)

    # --- what a phase refers to --------------------------------------------------------------------------------------

    def _model(self, part: str) -> str:
        return layout.out(self.name, part, "model")

    def _trained(self) -> list[str]:
        return [name for name, phase in self.spec.phases.items() if phase.objectives]

    def _before(self, name: str) -> list[str]:
        names = list(self.spec.phases)
        return names[: names.index(name)]

    def _start(self, name: str) -> str:
        given = self.spec.phases[name].from_
        earlier = [p for p in self._before(name) if self.spec.phases[p].objectives]
        return given or (earlier[-1] if earlier else "init")

    def _data(self, name: str) -> list[str]:
        phase = self.spec.phases[name]
        if phase.data is not None:
            return [self._selected(source.from_) for source in phase.data]
        if has_data(phase):
            return [self._selected(name)]
        earlier = [p for p in self._before(name) if has_data(self.spec.phases[p])]
        return [self._selected(earlier[-1])]

    def _selected(self, name: str) -> str:
        spec, _, phase = name.rpartition("/")
        return layout.out(spec or self.name, phase, "selected")

    def _named(self, phase: str, objective: Objective) -> Objective:
        """Return the objective with its teacher's name written in where it needs one, and where its signals come from."""
        if not objective.needs:
            return objective
        if objective.signal == "stored" or (objective.signal is None and self._features(phase)):
            return objective.model_copy(update={"signal": "stored"})
        return objective.model_copy(update={"signal": "online", "teacher": objective.teacher or self.spec.teacher})

    def _features(self, name: str) -> list[str]:
        """Return where the signals of the rows a phase trains on may be: in every phase so far that stores some."""
        found = [layout.out(self.name, p, "features") for p in [*self._before(name), name] if has_features(self.spec.phases[p])]
        for spec in sorted({path.split("/")[1] for path in self._data(name)} - {self.name}):
            peer = self.peers.get(spec)
            found += [layout.out(spec, p, "features") for p, phase in (peer.phases if peer else {}).items() if has_features(phase)]
        return found

    def _teacher(self, name: str | None) -> sections.TeacherUse | None:
        if name is None:
            return None
        teacher = self.params.teachers[name]
        weights = self.models.weights(next(iter(teacher.sources()), None), name)
        return sections.TeacherUse(name=name, teacher=teacher, weights=weights)

    def _actor(self, cast: Cast, word: str) -> sections.TeacherUse:
        """Return who a word of `by:` means: a teacher of params.yaml, or a model that this spec trains."""
        name = cast.model_of(word)
        if name in self.params.teachers:
            use = self._teacher(name)
            assert use is not None
            return use
        part = self._start(cast.phase) if name == STUDENT else name.removeprefix(PHASE)
        teacher = load("teachers", "transformers").model_validate({"kind": "transformers", "model": f"phase:{self.name}/{part}"})
        return sections.TeacherUse(name=name, teacher=teacher, weights=self._model(part))

    def _embedder(self) -> sections.EmbedderUse | None:
        if self.params.embedder is None:
            return None
        weights = self.models.weights(next(iter(self.params.embedder.sources()), None), "embedder")
        return sections.EmbedderUse(embedder=self.params.embedder, weights=weights)

    def _weights_dep(self, role: str, weights: str | None) -> list[tuple[str, str]]:
        return [] if weights is None or weights.startswith("hf:") else [(role, weights)]

    def _teacher_deps(self, use: sections.TeacherUse | None) -> list[tuple[str, str]]:
        if use is None:
            return []
        return [*self._weights_dep("teacher", use.weights), *(("teacher file", path) for path in use.teacher.files())]


def has_data(phase: Phase) -> bool:
    """Return whether a phase makes a data set of its own."""
    return bool(phase.elicit or phase.select)


def has_features(phase: Phase) -> bool:
    """Return whether a phase stores signals of its rows."""
    return any(operator.makes_features for operator in phase.elicit)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
