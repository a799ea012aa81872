"""Download: the observations of the regions of a catalog, from JSOC to the folders that `solared build` reads.

Dopplergrams are taken every 45 s; of magnetograms and continuum images only the one nearest the middle of each step's
window, as the pipeline uses no others. Frames that QUALITY marks as bad are not ordered.

As a rule JSOC cuts the images before it sends them: its process `im_patch` cuts a rectangle out of each image, without
interpolation, whose place follows a Carrington position; the keywords stay those of an image of the Sun, and our
tracking maps them as it maps whole images. The rectangle is so large that the patch stays within it while it drifts
against the Carrington rate. JSOC's `Maproj`, which makes maps, is of no use here: the centre of its maps is fixed in
Carrington coordinates, so one order cannot follow the region at the rate of `mtrack`, and tracking its maps would
interpolate twice.

Everything can be interrupted. A file that bears its final name is whole. The order that is being downloaded is kept in
`RAW/AR<number>/.jsoc/`, and the next run takes it up again as long as JSOC has it.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import drms
import numpy as np
from tqdm import tqdm

from dataset_builder.jsoc.plan import (
    RegionPlan,
    frame_path,
    observed_regions,
    plan_regions,
    read_catalog,
    without_file,
)
from dataset_builder.jsoc.plan import cutout as cutout_process
from dataset_builder.jsoc.server import PUBLIC_SERVER, SERIES, ExportFailed, Jsoc, chunks
from dataset_builder.jsoc.transfer import DEFAULT_PATIENCE, Damaged, Gone, Patience, check_frame, fetch, writing
from dataset_builder.region_file import RegionFile, read_region_file, write_region_file
from dataset_builder.times import CADENCES
from solared_hf.errors import SolaredError
from solared_hf.files import locked, write_atomically

NO_BAR = partial(tqdm, disable=True)

LOCK_NAME = ".download.lock"
# So many files in a row that are damaged whenever they come mean that more of them will not help.
MOST_DAMAGED_IN_A_ROW = 3
ORDER_FOLDER, ORDER_NAME = ".jsoc", "order.json"


@dataclass(frozen=True)
class DownloadReport:
    """What a download did: `files` counts those it wrote, `undelivered` what JSOC left out of its exports."""

    plans: tuple[RegionPlan, ...]
    files: int = 0
    undelivered: int = 0


def download_regions(
    catalog: Path | str,
    output: Path | str,
    *,
    email: str | None,
    ar_numbers: Sequence[int] = (),
    cadence: str = "1h",
    full_disk: bool = False,
    dry_run: bool = False,
    server: str = PUBLIC_SERVER,
    patience: Patience = DEFAULT_PATIENCE,
    say: Callable[[str], None] = print,
    progress: Callable[..., tqdm] = NO_BAR,
) -> DownloadReport:
    """Download the observations of the selected regions of a catalog, or what is missing of them.

    Args:
        catalog: file that `solared select` wrote.
        output: folder for the `AR<number>` folders, see `region_file`.
        email: address registered at JSOC; a dry run needs none.
        ar_numbers: only these of the selected regions; all if empty.
        cadence: of the steps, one of `CADENCES`: how often magnetograms and continuum images are taken.
        full_disk: take whole images instead of cutouts.
        dry_run: only say what there is to download.
        server: another server than Stanford's.
        patience: how long and how often to ask.
        say: takes the statement of what there is to download, line by line.
        progress: makes a bar, as `tqdm` does.

    Raises:
        SolaredError: the arguments do not fit, there are no observations of the regions, `output` holds those of
            another position, another download is writing it, the server does not do its part, files arrived damaged,
            or the disk is full. What is finished is kept.
    """
    if cadence not in CADENCES:
        raise SolaredError(f"Unknown cadence {cadence!r}; choose one of {', '.join(CADENCES)}.")
    if email is None and not dry_run:
        raise SolaredError("JSOC exports to registered e-mail addresses alone; name yours with --email.")
    jsoc, output = Jsoc(server, patience), Path(output)
    regions = observed_regions(read_catalog(Path(catalog), ar_numbers), say)

    def plan() -> tuple[RegionPlan, ...]:
        _check_positions(output, regions)
        return plan_regions(jsoc, regions, output, CADENCES[cadence], full_disk, say, progress)

    if dry_run:
        return DownloadReport(plan())
    busy = f"Another download is writing {output}, and JSOC asks for one at a time; wait until it has finished."
    with locked(output / LOCK_NAME, busy):
        jsoc.check_email(email)
        plans = plan()
        with progress(total=sum(plan.files_missing for plan in plans), unit="file", smoothing=0.05) as bar:
            downloads = [_RegionDownload(jsoc, plan, output, email, full_disk, bar) for plan in plans]
            for download in downloads:
                download.run()
    damaged = [reason for download in downloads for reason in download.damaged]
    if damaged:
        raise SolaredError(
            f"{len(damaged)} files arrived damaged {patience.attempts} times each, everything else is here; run the "
            f"same command again later. The first was {damaged[0]}."
        )
    return DownloadReport(plans, sum(one.written for one in downloads), sum(one.undelivered for one in downloads))


def _check_positions(output: Path, regions: Sequence[RegionFile]) -> None:
    """Refuse to go on with the cutouts of another position, which would lack part of the patch of this one."""
    for region in regions:
        folder = output / f"AR{region.ar_number}"
        old = read_region_file(folder)
        if old is not None and old.trajectory != region.trajectory:
            raise SolaredError(
                f"{folder} holds observations of another position, {_position(old)}, while the catalog says "
                f"{_position(region)}; move it away, or name another folder with --output (if it holds whole images "
                "alone, it is enough to correct its region.json)."
            )


def _position(region: RegionFile) -> str:
    where = region.trajectory
    return f"Carrington longitude {where.carrington_longitude:g} and latitude {where.latitude:g} at {where.t0} TAI"


class _RegionDownload:
    """Brings what is missing of a region, order by order; `damaged` says of each file given up what is wrong."""

    def __init__(self, jsoc: Jsoc, plan: RegionPlan, output: Path, email: str, full_disk: bool, bar: tqdm):
        self._jsoc, self._plan, self._email, self._full_disk, self._bar = jsoc, plan, email, full_disk, bar
        self._output, self._number = output, plan.region.ar_number
        self._orders = output / f"AR{self._number}" / ORDER_FOLDER
        self.written = self.undelivered = 0
        self.damaged: list[str] = []
        self._damaged_in_a_row = 0

    def run(self) -> None:
        """Download, beginning with the order of a run that was interrupted, if JSOC still has it."""
        write_region_file(self._orders.parent, self._plan.region)
        order = self._remembered_order()
        if order is not None:
            observable, largest = order["observable"], order["largest_arcsec"]
            try:
                request = self._jsoc.request_of(order["request"])
                self._receive(request, observable, self._plan.missing[observable], largest)
            except (ExportFailed, Gone):
                pass  # what is still missing is ordered anew
        self._forget_order()
        for observable, slots in self._plan.missing.items():
            for chunk in chunks(self._without_file(observable, slots)):
                self._bring(observable, chunk)

    def _bring(self, observable: str, slots: np.ndarray) -> None:
        """Order some frames and download them."""
        # JSOC may delete an export while it is downloaded; then the rest is ordered once more.
        try:
            self._order(observable, slots)
        except Gone:
            self._forget_order()
            try:
                self._order(observable, self._without_file(observable, slots))
            except Gone as error:
                self._forget_order()
                raise SolaredError(f"{error} was just exported and is not there; try again later.") from error
        self._forget_order()

    def _order(self, observable: str, slots: np.ndarray) -> None:
        process = None if self._full_disk else cutout_process(self._plan.region.trajectory, slots)
        # A server rounds to whole pixels.
        largest = 1.1 * max(process["im_patch"]["width"], process["im_patch"]["height"]) if process else None
        request = self._jsoc.request(observable, slots, self._email, process)
        order = {
            "server": self._jsoc.address,
            "request": request.id,
            "observable": observable,
            "full_disk": self._full_disk,
            "largest_arcsec": largest,
        }
        write_atomically(self._orders / ORDER_NAME, json.dumps(order, indent=1))
        try:
            delivered = self._receive(request, observable, slots, largest)
        except ExportFailed as error:
            self._forget_order()
            way_out = "" if self._full_disk else ", or add --full-disk to download whole images"
            raise SolaredError(
                f"{self._jsoc.address} could not export {slots.size:,} records of {SERIES[observable][0]} for "
                f"AR{self._number}: {error}; run the same command again later{way_out}."
            ) from error
        self.undelivered += slots.size - delivered

    def _receive(
        self, request: drms.ExportRequest, observable: str, slots: np.ndarray, largest_arcsec: float | None
    ) -> int:
        """Wait for an export and download its frames of some slots; how many it has."""
        name = f"AR{self._number} {observable}"
        self._bar.set_description(f"{name}, JSOC prepares {request.id}")
        urls = self._jsoc.files(request)
        self._bar.set_description(name)
        delivered = [slot for slot in slots.tolist() if slot in urls]
        for slot in delivered:
            path = frame_path(self._output, self._number, observable, slot)
            check = partial(check_frame, slot=slot, largest_arcsec=largest_arcsec)
            try:
                fetch(urls[slot], path, self._orders / f"{path.name}.part", check, self._jsoc.patience)
            except Damaged as error:
                self._give_up(urls[slot], error)
            else:
                self._damaged_in_a_row = 0
                self.written += 1
                self._bar.update()
        return len(delivered)

    def _give_up(self, url: str, error: Damaged) -> None:
        self.damaged.append(f"{url}: {error}")
        self._damaged_in_a_row += 1
        if self._damaged_in_a_row == MOST_DAMAGED_IN_A_ROW:
            self._forget_order()
            raise SolaredError(
                f"{MOST_DAMAGED_IN_A_ROW} files in a row arrived damaged {self._jsoc.patience.attempts} times each, "
                f"the last was {url}: {error}; no more are asked for, what is finished is kept: run the same command "
                "again later."
            ) from error

    def _without_file(self, observable: str, slots: np.ndarray) -> np.ndarray:
        return without_file(self._output, self._number, observable, slots)

    def _remembered_order(self) -> dict | None:
        """The order of an earlier run, if it was one like ours; one that cannot be read is none."""
        try:
            order = json.loads((self._orders / ORDER_NAME).read_bytes())
            ours = order["server"] == self._jsoc.address and order["full_disk"] == self._full_disk
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return order if ours and order["request"] and order["observable"] in SERIES else None

    def _forget_order(self) -> None:
        """The parts of files that lie with it are of use to no other order."""
        with writing(self._orders):
            if self._orders.exists():
                shutil.rmtree(self._orders)
