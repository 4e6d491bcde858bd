/** Whether tests run with large counts: SLOW=1, `npm run test:slow`. */
export const slow = process.env.SLOW === '1'
