// One part, in a process of its own: node part.mjs NAME, started by run.mjs, which sends the options and gets the result.
const [name] = process.argv.slice(2)

process.once('message', async (options) => {
  const { title, about, measure } = await import(`./parts/${name}.mjs`)
  const progress = (what) => process.stderr.write(`${name}: ${what}\n`)
  const groups = await measure({ ...options, progress })
  process.send({ title, about, groups }, () => process.disconnect())
})
