"""The sections of a report, in the order in which it shows them; a new one is a file here and a line of this list."""

from dreamrun.evaluation.section import Section
from dreamrun.evaluation.sections.controllability import CONTROLLABILITY
from dreamrun.evaluation.sections.cost import COST, FRAME_MS, SWEEP
from dreamrun.evaluation.sections.drift import DRIFT
from dreamrun.evaluation.sections.fidelity import FIDELITY, PERCEPTUAL_DISTANCES
from dreamrun.evaluation.sections.infilling import EDITING
from dreamrun.evaluation.sections.inverse_dynamics import INVERSE_DYNAMICS
from dreamrun.evaluation.sections.key_objects import OBJECTS
from dreamrun.evaluation.sections.report_pictures import PICTURES
from dreamrun.evaluation.sections.rewards_and_ends import OUTCOMES
from dreamrun.evaluation.sections.single_step import SINGLE_STEP

SECTIONS: list[Section] = [
    FIDELITY,
    CONTROLLABILITY,
    INVERSE_DYNAMICS,
    DRIFT,
    OBJECTS,
    OUTCOMES,
    SWEEP,
    SINGLE_STEP,
    EDITING,
    PERCEPTUAL_DISTANCES,
    COST,
    FRAME_MS,
    PICTURES,
]
