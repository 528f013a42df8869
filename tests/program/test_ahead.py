"""What is read off compiled programs, on texts by hand."""

from ez_jax.program import ahead

HLO = """
  %all-reduce.7 = (f32[3,4]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1, to_apply=%add
  %all-reduce-start = bf16[8]{0:T(1024)S(1)} all-reduce-start(%c), channel_id=2
  %all-reduce-done = bf16[8]{0} all-reduce-done(%all-reduce-start)
  %gathered = pred[2,5]{1,0} all-gather(%d), dimensions={0}
  %start = (f32[2,3]{1,0}, f32[8,3]{1,0}) all-gather-start(%e), dimensions={0}
  %moved = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%f), channel_id=3
  ROOT %fusion = f32[100]{0} fusion(%all-reduce.7), kind=kLoop
"""


def test_collectives_by_hand():
    """12 + 1 floats, 8 halves (which start once), 10 bytes; results of 24 and 5 floats."""
    assert ahead.collectives(HLO) == (5, 4 * 13 + 2 * 8 + 10 + 4 * 24 + 4 * 5)
    assert ahead.collectives("") == (0, 0)
