"""`loopwm certify RUN`: the claims about one checkpoint, as a file bound to its weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from loopwm.certify.bounds import Boundedness, boundedness
from loopwm.certify.config import MeasureConfig
from loopwm.certify.measured import MeasuredRate, measured_rate
from loopwm.data.cache import open_memmap
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate.segments import tile
from loopwm.files import write_json
from loopwm.model.certified import CertifiedCore
from loopwm.model.world_model import WorldModel
from loopwm.train.checkpoint import NAME, load, read_checkpoint, weights_digest
from loopwm.train.journal import read_config

FORMAT = 1
FILE = "certificate.json"
WEIGHTS = "ema"
SHARES = (0.1, 0.01, 0.001)
"""Shares of the starting distance for which the worst-case loops are listed."""


@dataclass(frozen=True)
class ContractionClaim:
    """Claim C.

    Attributes:
        lipschitz: L of G. d_min, d_max: range of 1 - Abar. rate: rho.
        exit_factor: rho / (1 - rho), from the last step's |.|_* to a bound on the distance still to go.
        loops_to: share of the starting |.|_* distance -> loops that are enough for it, whatever the input.
    """

    lipschitz: float
    d_min: float
    d_max: float
    rate: float
    exit_factor: float
    loops_to: dict[str, int]


@dataclass(frozen=True)
class Certificate:
    """What is claimed of one checkpoint.

    Attributes:
        format: version of this file. weights: the part of the checkpoint that is meant.
        sha256: of the architecture and of every number in these weights.
        system: kind of core.
        boundedness: claim B.
        contraction: claim C; None where nothing but B can be claimed.
        measured: a measured rate, which proves nothing; None for a certified core and for a stack.
        unmeasured: why there is none of an uncertified loop.
    """

    format: int
    weights: str
    sha256: str
    system: str
    boundedness: Boundedness
    contraction: ContractionClaim | None
    measured: MeasuredRate | None
    unmeasured: str = ""


def certify(run: Path, data: Path | None = None, config: MeasureConfig | None = None) -> Certificate:
    """Certify a run's averaged weights and write RUN/certificate.json.

    Args:
        data: recording for a measured rate, which only an uncertified loop gets; the run's own when None.

    What follows from the weights needs no recording: where the run's own cannot be measured on, as one of texts, or one
    that is gone, nothing is measured, and `unmeasured` says why.

    Raises:
        UserError: no run there; a certified core whose weights do not contract; `data` cannot be measured on.
    """
    run = Path(run)
    claims = claims_of(run)
    if claims.contraction is None and claims.system == "looped":
        try:
            claims = replace(claims, measured=_measure(run, data, config or MeasureConfig()))
        except UserError as error:
            if data is not None:
                raise
            claims = replace(claims, unmeasured=str(error))
    write_json(run / FILE, asdict(claims))
    return claims


def claims_of(run: Path) -> Certificate:
    """What follows from a run's weights and nothing else.

    Raises:
        UserError: no run there, or a certified core whose weights do not contract.
    """
    path = run / NAME
    checkpoint = read_checkpoint(path, (WEIGHTS + ".",))
    model = checkpoint.restore(checkpoint.blueprint.build(), WEIGHTS).eval()
    if not all(bool(tensor.isfinite().all()) for tensor in checkpoint.tensors.values()):
        raise UserError(f"{path} fails certification: its weights are not all finite; restore a copy or train again.")
    return Certificate(
        format=FORMAT,
        weights=WEIGHTS,
        sha256=weights_digest(checkpoint.blueprint, checkpoint.part(WEIGHTS)),
        system=model.config.system,
        boundedness=boundedness(model),
        contraction=contraction_claim(model, path),
        measured=None,
    )


def contraction_claim(model: WorldModel, path: Path) -> ContractionClaim | None:
    """Claim C of a certified core; None for any other.

    Raises:
        UserError: the constants recomputed from the weights do not make a contraction.
    """
    if not isinstance(model.core, CertifiedCore):
        return None
    found = model.core.contraction()
    if not found.rate < 1:
        raise UserError(
            f"{path} fails certification: the Lipschitz constant recomputed from its weights is {found.lipschitz:.4g}, "
            f"and only below 1 does the loop contract; restore the weights that were trained."
        )
    return ContractionClaim(
        lipschitz=found.lipschitz,
        d_min=found.d_min,
        d_max=found.d_max,
        rate=found.rate,
        exit_factor=found.rate / (1 - found.rate),
        loops_to={f"{share:g}": found.loops_to(share) for share in SHARES},
    )


def check(run: Path, file: Path) -> Certificate:
    """Verify a certificate against a run: same weights, and the same claims when recomputed.

    Raises:
        UserError: it is no certificate, was made for other weights, or claims what the weights do not give.
    """
    claimed, found = read_certificate(file), claims_of(Path(run))
    if claimed.sha256 != found.sha256:
        raise UserError(
            f"{file} was made for other weights than those of {run} (sha256 {claimed.sha256[:12]}... against "
            f"{found.sha256[:12]}...); certify the run again: loopwm certify {run}"
        )
    for name in ("system", "weights", "boundedness", "contraction"):
        wrong = difference(getattr(claimed, name), getattr(found, name))
        if wrong:
            raise UserError(f"{file} claims another {name} than the weights give ({wrong}); it has been altered.")
    return claimed


def difference(claimed: object, found: object) -> str:
    """Where two parts of a certificate differ by more than rounding, or nothing."""
    if isinstance(claimed, float) and isinstance(found, float):
        # Another processor's linear algebra may round differently.
        return "" if math.isclose(claimed, found, rel_tol=1e-9) else f"{claimed:.6g} instead of {found:.6g}"
    fields = [vars(part) if hasattr(part, "__dict__") else part for part in (claimed, found)]
    if isinstance(fields[0], dict) and isinstance(fields[1], dict) and fields[0].keys() == fields[1].keys():
        faults = ((name, difference(value, fields[1][name])) for name, value in fields[0].items())
        return next((f"{name}: {fault}" for name, fault in faults if fault), "")
    return "" if fields[0] == fields[1] else f"{claimed} instead of {found}"


def read_certificate(file: Path) -> Certificate:
    """A certificate from its file.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if not Path(file).is_file():
        raise UserError(f"There is no certificate at {file}; make one with: loopwm certify RUN")
    try:
        content = json.loads(Path(file).read_text())
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise UserError(
                f"{file} has certificate format {content.get('format')}, this loopwm reads format {FORMAT}."
            )
        return TypeAdapter(Certificate).validate_python(content)
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a certificate; make one with: loopwm certify RUN") from error


def _measure(run: Path, data: Path | None, config: MeasureConfig) -> MeasuredRate:
    model = load(run, WEIGHTS)
    with Store.open(data or read_config(run / "config.yaml").data) as store:
        columns, held_out = open_memmap(store), store.split("test")
    if (model.observation, model.action) != (columns.meta.observation, columns.meta.action):
        raise UserError(
            f"{run} was trained on another world than '{columns.meta.world}'; give its recording with --data."
        )
    return measured_rate(model, tile(columns, held_out, 1, transitions=config.states, seed=config.seed), config)
