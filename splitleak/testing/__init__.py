"""What every defense, attack, measure and architecture keeps, as checks for those of others; ours are held to the same.

Each ``check_…`` takes one of yours, needs no test runner, and raises an AssertionError that says what is not kept. Each
``…_CHECKS`` are its checks one by one, for a test each:

    @pytest.mark.parametrize("check", DEFENSE_CHECKS)
    def test_blur_keeps(check):
        check(DefenseSubject(Blur))
"""

from splitleak.testing.architectures import ARCHITECTURE_CHECKS, ArchitectureSubject, check_architecture
from splitleak.testing.attacks import ATTACK_CHECKS, AttackSubject, check_attack
from splitleak.testing.class_attacks import CLASS_ATTACK_CHECKS, ClassAttackSubject, check_class_attack
from splitleak.testing.defenses import DEFENSE_CHECKS, DefenseSubject, check_defense
from splitleak.testing.measures import MEASURE_CHECKS, MeasureSubject, check_measure

__all__ = [
    "ARCHITECTURE_CHECKS",
    "ATTACK_CHECKS",
    "CLASS_ATTACK_CHECKS",
    "DEFENSE_CHECKS",
    "MEASURE_CHECKS",
    "ArchitectureSubject",
    "AttackSubject",
    "ClassAttackSubject",
    "DefenseSubject",
    "MeasureSubject",
    "check_architecture",
    "check_attack",
    "check_class_attack",
    "check_defense",
    "check_measure",
]
