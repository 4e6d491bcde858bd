/** User ids in bulk. */

/** `user-0`, `user-1` …, as the scripts of test/children/ name them. */
export function userIds(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `user-${index}`)
}

/** `user-000000`, `user-000001` …, whose order as text is that of their numbers: the order in which stores list. */
export function orderedUserIds(count: number, prefix = 'user'): string[] {
  return Array.from({ length: count }, (_, index) => `${prefix}-${String(index).padStart(6, '0')}`)
}
