// What is measured, in this order: a module in parts/ each.
export const PARTS = [
  'tokens',
  'look-ups',
  'minting',
  'bulk',
  'rewrap',
  'copy',
  'sweep',
  'sweep-native',
  'together',
  'tenants',
  'memory',
]
