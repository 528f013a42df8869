"""Published scores, to stand beside one's own.

Atari 100k, means over seeds: SPR (Schwarzer et al. 2021), MuZero and EfficientZero (Ye et al.
2021), EfficientZero-V2 (Wang et al. 2024), BBF (Schwarzer et al. 2023), DreamerV3 (Hafner et al.
2023). DeepMind Control from states with action repeat 2: EfficientZero-V2, table 2; 50,000
decisions for the tasks of `presets.control.DMC_EASY`, 100,000 for the others.
"""

ATARI_METHODS = ("SPR", "MuZero", "EfficientZero", "EfficientZero-V2", "BBF", "DreamerV3")
ATARI: dict[str, tuple[float, ...]] = {
    "Alien": (801.5, 530.0, 808.5, 1557.7, 1173.2, 1118.0),
    "Amidar": (176.3, 38.8, 148.6, 184.9, 244.6, 97.0),
    "Assault": (571.0, 500.1, 1263.1, 1757.5, 2098.5, 683.0),
    "Asterix": (977.8, 1734.0, 25557.8, 61810.0, 3946.1, 1062.0),
    "BankHeist": (380.9, 192.5, 351.0, 1316.7, 732.9, 398.0),
    "BattleZone": (16651.0, 7687.5, 13871.2, 14433.3, 24459.8, 20300.0),
    "Boxing": (35.8, 15.1, 52.7, 75.0, 85.8, 82.0),
    "Breakout": (17.1, 48.0, 414.1, 400.1, 370.6, 10.0),
    "ChopperCommand": (974.8, 1350.0, 1117.3, 1196.6, 7549.3, 2222.0),
    "CrazyClimber": (42923.6, 56937.0, 83940.2, 112363.3, 58431.8, 86225.0),
    "DemonAttack": (545.2, 3527.0, 13003.9, 22773.5, 13341.4, 577.0),
    "Freeway": (24.4, 21.8, 21.8, 0.0, 25.5, 0.0),
    "Frostbite": (1821.5, 255.0, 296.3, 1136.3, 2384.8, 3377.0),
    "Gopher": (715.2, 1256.0, 3260.3, 3868.7, 1331.2, 2160.0),
    "Hero": (7019.2, 3095.0, 9315.9, 9705.0, 7818.6, 13354.0),
    "Jamesbond": (365.4, 87.5, 517.0, 468.3, 1129.6, 540.0),
    "Kangaroo": (3276.4, 62.5, 724.1, 1886.7, 6614.7, 2643.0),
    "Krull": (3688.9, 4890.8, 5663.3, 9080.0, 8223.4, 8171.0),
    "KungFuMaster": (13192.7, 18813.0, 30944.8, 28883.3, 18991.7, 25900.0),
    "MsPacman": (1313.2, 1265.6, 1281.2, 2251.0, 2008.3, 1521.0),
    "Pong": (-5.9, -6.7, 20.1, 20.8, 16.7, -4.0),
    "PrivateEye": (124.0, 56.3, 96.7, 99.8, 40.5, 3238.0),
    "Qbert": (669.1, 3952.0, 13781.9, 16058.3, 4447.1, 2921.0),
    "RoadRunner": (14220.5, 2500.0, 17751.3, 27516.7, 33426.8, 19230.0),
    "Seaquest": (583.1, 208.0, 1100.2, 1974.0, 1232.5, 962.0),
    "UpNDown": (28138.5, 2896.9, 17264.2, 15224.3, 12101.7, 46910.0),
}

CONTROL_METHODS = ("SAC", "TD-MPC2", "DreamerV3", "EfficientZero-V2")
CONTROL: dict[str, tuple[float, ...]] = {
    "CartpoleBalance": (998, 963, 840, 947),
    "CartpoleBalanceSparse": (993, 943, 559, 999),
    "CartpoleSwingup": (862, 827, 528, 805),
    "BallInCupCatch": (950, 976, 730, 970),
    "FingerSpin": (900, 966, 766, 837),
    "PendulumSwingup": (159, 520, 830, 825),
    "ReacherEasy": (744, 904, 693, 940),
    "ReacherHard": (647, 580, 768, 795),
    "WalkerStand": (870, 974, 767, 954),
    "WalkerWalk": (813, 966, 475, 944),
    "AcrobotSwingup": (44, 303, 63, 298),
    "CartpoleSwingupSparse": (257, 421, 173, 795),
    "CheetahRun": (681, 614, 401, 678),
    "FingerTurnEasy": (631, 793, 561, 311),
    "FingerTurnHard": (414, 605, 474, 374),
    "HopperHop": (0, 85, 10, 187),
    "HopperStand": (4, 808, 296, 795),
    "QuadrupedRun": (140, 742, 289, 511),
    "QuadrupedWalk": (238, 854, 256, 926),
    "WalkerRun": (635, 781, 479, 657),
}


def published(task: str) -> dict[str, float]:
    """Scores of a task by method, none where it is not in a table.

    Args:
      task: a game as `Pong`, or a task of DeepMind Control as EnvPool's `WalkerWalk-v1`.
    """
    if task in ATARI:
        return dict(zip(ATARI_METHODS, ATARI[task]))
    return dict(zip(CONTROL_METHODS, CONTROL.get(task.removesuffix("-v1"), ())))
