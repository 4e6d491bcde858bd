/** A count as people read it: 1,234. */
export const numberText = (count: number) => count.toLocaleString('en')
