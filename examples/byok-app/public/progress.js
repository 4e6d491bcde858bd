// Shows the progress of a job while it runs. Without this script the page loads itself again every two seconds.
const region = document.getElementById('job')

async function update() {
  const response = await fetch('/operator/job', { headers: { accept: 'text/html' } }).catch(() => null)
  // Signed out, or the server is being restarted: the page says more.
  if (response?.ok && !response.redirected) {
    region.innerHTML = await response.text()
    const state = region.querySelector('[data-state]')?.dataset.state
    if (state !== 'running') return location.reload()
  }
  setTimeout(update, 500)
}

if (region?.hasAttribute('data-running')) {
  region.setAttribute('aria-live', 'polite')
  update()
}
