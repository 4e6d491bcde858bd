/** SLOW=1 (`npm run test:slow`) runs the large counts. */
export const slow = process.env.SLOW === '1'
